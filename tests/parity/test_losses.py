"""Each of our losses beside that of stock TRL: value, and gradient to the policy's log-probabilities."""

from typing import Any

import pytest
import torch

from preftune.losses import catalogue, rewards
from tests.parity.stock_loss import LENGTHS, Stock, nats, ours_at

# Log-ratios of each pair under which the losses are compared, in nats.
CHOSEN = [0.0, 1.5, -4.0, 9.0, -0.3, 25.0]
REJECTED = [0.0, -2.0, 3.0, 8.0, -0.7, -20.0]
CASES = [
    ("sigmoid", {"beta": 0.1}),
    ("hinge", {"beta": 0.1}),
    ("ipo", {"beta": 0.1}),
    ("robust", {"beta": 0.1, "label_smoothing": 0.1}),
    ("robust", {"beta": 0.5, "label_smoothing": 0.0}),
    ("exo_pair", {"beta": 0.1, "label_smoothing": 1e-3}),
    ("exo_pair", {"beta": 0.5, "label_smoothing": 0.2}),
    ("nca_pair", {"beta": 0.1}),
    ("bco_pair", {"beta": 0.1}),
    ("sppo_hard", {"beta": 0.1}),
    ("apo_zero", {"beta": 0.1}),
    ("apo_down", {"beta": 0.1}),
    ("discopop", {"beta": 0.1, "tau": 0.05}),
    ("discopop", {"beta": 0.5, "tau": 1.0}),
    ("sigmoid_norm", {"beta": 5.0}),
    ("aot", {"beta": 0.1}),
    ("aot", {"beta": 0.5, "label_smoothing": 0.2}),
    ("aot_unpaired", {"beta": 0.1}),
    ("aot_unpaired", {"beta": 0.5, "label_smoothing": 0.2}),
    ("sft", {}),
]


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_value_and_gradient_equal_those_of_stock_trl(
    stock_loss: Stock, name: str, parameters: dict[str, float]
) -> None:
    value, gradient, record = stock_loss(name, **parameters)(nats(*CHOSEN), nats(*REJECTED))
    costs, slopes = ours_at(name, parameters, record)
    assert [int(length) for length in record.lengths()[0]] == [chosen for _, chosen, _ in LENGTHS]
    assert costs.mean().item() == pytest.approx(value, rel=1e-6, abs=1e-6)
    torch.testing.assert_close(slopes, gradient, rtol=1e-6, atol=1e-6)
    assert bool((gradient.abs().sum(dim=0) > 0).any())


@pytest.mark.parametrize(
    "divergence",
    [
        {"f_divergence_type": "forward_kl"},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.5},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
    ],
)
@pytest.mark.parametrize(("name", "parameters"), [("sigmoid", {"beta": 0.1}), ("ipo", {"beta": 0.1})])
def test_value_and_gradient_under_a_divergence_equal_those_of_stock_trl(
    stock_loss: Stock, name: str, parameters: dict[str, float], divergence: dict[str, Any]
) -> None:
    # the scores of forward_kl reach e^4, beyond which squares of them have no sixth place in float32
    chosen, rejected = nats(0.0, 1.5, -4.0, 9.0, -0.3, 3.0), nats(0.0, -2.0, 3.0, 8.0, -0.7, -4.0)
    value, gradient, record = stock_loss(name, **parameters, **divergence)(chosen, rejected)
    costs, slopes = ours_at(name, parameters, record, lambda pairs: rewards.divergent(pairs, **divergence))
    assert costs.mean().item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(slopes, gradient, rtol=1e-5, atol=1e-5)


def test_every_loss_of_the_catalogue_that_trl_has_too_is_compared() -> None:
    not_in_trl = {"soft", "odpo", "dpop", "rdpo", "cal_dpo", "ipo_sum", "simpo", "orpo", "cpo", "beta_dpo", "tdpo"}
    assert {name for name, _ in CASES} == set(catalogue.LOSSES) - not_in_trl
