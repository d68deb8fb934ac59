"""Losses that read how strong a preference is: values worked by hand, properties, refusals."""

import math
import re

import pytest
import torch

from preftune.losses import catalogue, graded, pairwise
from preftune.losses.logps import PairLogps
from tests.losses import record


@pytest.mark.parametrize(
    ("loss", "parameters", "logratios", "extras", "expected"),
    [
        # at the reference: log 2, whatever the probability
        ("soft", {"beta": 0.1}, (0.0, 0.0), {"probability": 0.3}, math.log(2)),
        # margin 3, beta 0.5: log(1 + e^-1.5) = 0.201413 if right, 1.701413 if wrong; 0.7 and 0.3 of them
        ("soft", {"beta": 0.5}, (2.0, -1.0), {"probability": 0.7}, 0.651413),
        ("soft", {"beta": 0.5}, (2.0, -1.0), {"probability": 0.0}, 1.701413),
        # without a probability the label is sure
        ("soft", {"beta": 0.5}, (2.0, -1.0), {"probability": math.nan}, 0.201413),
        # at the reference: log(1 + 4^0.5) = log 3
        ("odpo", {"beta": 0.1, "alpha": 0.5}, (0.0, 0.0), {"score": 4.0}, math.log(3)),
        # 1.5 - log 2: log(1 + 2 e^-1.5) = log 1.446260 = 0.368981
        ("odpo", {"beta": 0.5, "alpha": 1.0}, (2.0, -1.0), {"score": 2.0}, 0.368981),
        # the same difference from two scores
        ("odpo", {"beta": 0.5, "alpha": 1.0}, (2.0, -1.0), {"score_chosen": 3.0, "score_rejected": 1.0}, 0.368981),
        (
            "odpo",
            {"beta": 0.5, "alpha": 1.0},
            (2.0, -1.0),
            {"score": math.nan, "score_chosen": 3.0, "score_rejected": 1.0},
            0.368981,
        ),
        # score comes before the two scores
        (
            "odpo",
            {"beta": 0.5, "alpha": 1.0},
            (2.0, -1.0),
            {"score": 2.0, "score_chosen": 9.0, "score_rejected": 1.0},
            0.368981,
        ),
        # without a score there is no offset
        ("odpo", {"beta": 0.5, "alpha": 1.0}, (2.0, -1.0), {"score": math.nan}, 0.201413),
    ],
)
def test_a_loss_has_the_value_worked_by_hand(
    loss: str,
    parameters: dict[str, float],
    logratios: tuple[float, float],
    extras: dict[str, float],
    expected: float,
) -> None:
    for one in catalogue.pair_loss(loss, parameters):
        assert one(record(*logratios, **extras)).item() == pytest.approx(expected, abs=1e-6)


def test_turning_a_soft_pair_round_and_its_probability_costs_the_same() -> None:
    pair = record(2.0, -1.0, probability=0.7)
    turned = PairLogps(
        pair.policy_rejected,
        pair.policy_chosen,
        pair.reference_rejected,
        pair.reference_chosen,
        extras={"probability": 1 - pair.extras["probability"]},
    )
    torch.testing.assert_close(graded.soft(pair, beta=0.5), graded.soft(turned, beta=0.5))


def test_a_soft_pair_costs_least_where_the_policy_believes_its_probability() -> None:
    margin = torch.tensor([math.log(0.9 / 0.1) / 0.5], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    extras = {"probability": torch.tensor([0.9], dtype=torch.float64)}
    cost = graded.soft(PairLogps(margin, zero, zero, zero, extras=extras), beta=0.5)
    cost.backward()
    # the entropy: -0.9 log 0.9 - 0.1 log 0.1 = 0.094824 + 0.230259
    assert cost.item() == pytest.approx(0.325083, abs=1e-6)
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0, abs=1e-12)


def test_one_probability_for_all_is_label_smoothing() -> None:
    pair = record(2.0, -1.0, probability=0.8)
    torch.testing.assert_close(
        graded.soft(pair, beta=0.5), pairwise.sigmoid(pair, beta=0.5, label_smoothing=0.2), rtol=1e-12, atol=0
    )


def test_a_higher_score_asks_for_more_margin_and_alpha_of_zero_for_none() -> None:
    costs = [graded.odpo(record(2.0, -1.0, score=score), beta=0.5, alpha=1.0).item() for score in (0.5, 1.0, 2.0, 9.0)]
    assert costs == sorted(costs)
    pair = record(2.0, -1.0, score=9.0)
    assert graded.odpo(pair, beta=0.5, alpha=0.0).item() == pairwise.sigmoid(pair, beta=0.5).item()


@pytest.mark.parametrize(
    ("loss", "extras", "fault"),
    [
        (
            "soft",
            {"weight": 1.0},
            "pairs must carry a probability for this loss, got none; set data.extras.probability, or the votes that "
            "give it",
        ),
        ("soft", {"probability": 1.5}, "probability must be from 0 to 1, got 1.5"),
        ("soft", {"probability": -0.5}, "probability must be from 0 to 1, got -0.5"),
        ("odpo", {"score_chosen": 1.0}, "pairs must carry a score for this loss, got none; set data.score"),
        (
            "odpo",
            {"score": 0.0},
            "the score of chosen less that of rejected must be above 0 for odpo, got 0; data.ties=drop leaves out "
            "those of 0, data.min_margin those below it",
        ),
        (
            "odpo",
            {"score_chosen": 1.0, "score_rejected": 3.0},
            "the score of chosen less that of rejected must be above 0 for odpo, got -2; data.ties=drop leaves out "
            "those of 0, data.min_margin those below it",
        ),
    ],
)
def test_numbers_that_a_loss_cannot_take_are_refused(loss: str, extras: dict[str, float], fault: str) -> None:
    ours, _ = catalogue.pair_loss(loss, {"soft": {"beta": 0.1}, "odpo": {"beta": 0.1, "alpha": 1.0}}[loss])
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
        ours(record(1.0, 0.0, **extras))
