"""Where stock TRL departs from a paper, from itself or from us: each entry of docs/trl_differences.md, by its numbers.

A test that fails after an upgrade says that the entry is no longer true.
"""

import math

import pytest
import torch

from preftune.losses import variants
from preftune.losses.logps import PairLogps
from tests.parity.stock_loss import LENGTHS, Stock, nats, ours_at

PAIRS = len(LENGTHS)


def mean_of_ours(name: str, parameters: dict[str, float], record: PairLogps) -> float:
    """Return the mean of our costs."""
    return ours_at(name, parameters, record)[0].mean().item()


def test_trl_ignores_label_smoothing_with_the_sigmoid_loss(stock_loss: Stock) -> None:
    # margin 15, beta 0.1: log(1 + e^-1.5) = 0.201413; a tenth of wrong labels adds 0.1 * 1.5
    margin = nats(*[10.0] * PAIRS), nats(*[-5.0] * PAIRS)
    value, _, record = stock_loss("sigmoid", beta=0.1, label_smoothing=0.1)(*margin)
    assert value == pytest.approx(0.201413, abs=1e-5)
    assert mean_of_ours("sigmoid", {"beta": 0.1, "label_smoothing": 0.1}, record) == pytest.approx(0.351413, abs=1e-5)


def test_trl_divides_by_length_in_ipo_where_the_paper_sums(stock_loss: Stock) -> None:
    # one nat a token up and down: 2 per token in every pair, so (2 - 1)^2 = 1
    up, down = nats(*(float(c) for _, c, _ in LENGTHS)), nats(*(-float(r) for _, _, r in LENGTHS))
    value, _, record = stock_loss("ipo", beta=0.5)(up, down)
    assert value == pytest.approx(1.0, abs=1e-5)
    # summed margins 9, 6, 5, 2, 12, 18: (64 + 25 + 16 + 1 + 121 + 289) / 6 = 86
    assert ((record.margin() - 1) ** 2).mean().item() == pytest.approx(86.0, abs=1e-3)


def test_trl_takes_the_labels_of_sppo_as_certain(stock_loss: Stock) -> None:
    # eta 10: 2 (10 * 1/2)^2 = 50; the paper's with a chance of 3/4 that chosen wins: 2 (10 * 1/4)^2 = 12.5
    value, _, _ = stock_loss("sppo_hard", beta=0.1)(nats(*[0.0] * PAIRS), nats(*[0.0] * PAIRS))
    assert value == pytest.approx(50.0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        # -sigma(log 3) + sigma(-log 4) = -3/4 + 1/5 = -0.55
        ("apo_zero", (math.log(3), -math.log(4))),
        # sigma(-log 3) - sigma(log 4) = 1/4 - 4/5 = -0.55
        ("apo_down", (-math.log(3), -math.log(12))),
    ],
)
def test_trl_adds_one_to_both_losses_of_apo(stock_loss: Stock, name: str, rewards: tuple[float, float]) -> None:
    chosen, rejected = (nats(*[reward / 0.1] * PAIRS) for reward in rewards)
    assert stock_loss(name, beta=0.1)(chosen, rejected)[0] == pytest.approx(-0.55 + 1, abs=1e-6)
    at_reference = stock_loss(name, beta=0.1)(nats(*[0.0] * PAIRS), nats(*[0.0] * PAIRS))
    assert at_reference[0] == pytest.approx(1.0, abs=1e-6)


def test_the_discopop_loss_of_trl_is_nan_for_a_pair_ranked_wrongly_by_far(stock_loss: Stock) -> None:
    # beta h = -90: e^90 is infinite in float32 and its weight sigma(-1800) is 0
    near = stock_loss("discopop", beta=0.1, tau=0.05)(nats(*[-880.0] * PAIRS), nats(*[0.0] * PAIRS))
    assert near[0] == pytest.approx(88.0)
    value, gradient, record = stock_loss("discopop", beta=0.1, tau=0.05)(nats(*[-900.0] * PAIRS), nats(*[0.0] * PAIRS))
    assert math.isnan(value)
    assert bool(torch.isnan(gradient).all())
    costs, slopes = ours_at("discopop", {"beta": 0.1, "tau": 0.05}, record)
    torch.testing.assert_close(costs, torch.full((PAIRS,), 90.0))
    torch.testing.assert_close(slopes[0], torch.full((PAIRS,), -0.1))


def test_trl_trains_robust_inverted_where_more_than_half_of_the_labels_are_said_to_be_flipped(
    stock_loss: Stock,
) -> None:
    value, gradient, record = stock_loss("robust", beta=0.1, label_smoothing=0.6)(
        nats(*[0.0] * PAIRS), nats(*[0.0] * PAIRS)
    )
    assert value == pytest.approx(math.log(2), abs=1e-6)
    # 0.1 * (0.4 * -1/2 - 0.6 * 1/2) / (1 - 1.2) = +0.25: chosen is lowered
    torch.testing.assert_close(gradient[0], torch.full((PAIRS,), 0.25))
    with pytest.raises(ValueError, match=r"^label_smoothing must be at least 0 and below 0\.5, got 0\.6$"):
        variants.robust(record, beta=0.1, label_smoothing=0.6)
