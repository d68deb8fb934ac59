"""Each of our losses beside that of stock TRL: value, and gradient to the policy's log-probabilities."""

import pytest
import torch

from preftune.losses import catalogue
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
    ("sppo_hard", {"beta": 0.1}),
    ("apo_zero", {"beta": 0.1}),
    ("apo_down", {"beta": 0.1}),
    ("discopop", {"beta": 0.1, "tau": 0.05}),
    ("discopop", {"beta": 0.5, "tau": 1.0}),
    ("sigmoid_norm", {"beta": 5.0}),
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


def test_every_loss_of_the_catalogue_that_trl_has_too_is_compared() -> None:
    not_in_trl = {"soft", "odpo", "dpop", "rdpo", "cal_dpo", "ipo_sum", "simpo", "orpo", "cpo"}
    assert {name for name, _ in CASES} == set(catalogue.LOSSES) - not_in_trl
