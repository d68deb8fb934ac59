"""Losses of the policy alone: values worked by hand, and properties."""

import math
from dataclasses import replace

import pytest
import torch

from preftune.losses import catalogue, pairwise, reference_free
from tests.losses import PARAMETERS, record


@pytest.mark.parametrize(
    ("loss", "parameters", "logratios", "expected"),
    [
        # at the reference: -3 / 2 and -5 / 4 per token; 2 * -0.25 - 0.5 = -1: log(1 + e)
        ("simpo", {"beta": 2.0, "gamma": 0.5}, (0.0, 0.0), 1.313262),
        # -1 / 2 and -6 / 4: 2 * 1 - 1 = 1: log(1 + e^-1)
        ("simpo", {"beta": 2.0, "gamma": 1.0}, (2.0, -1.0), 0.313262),
        # probability 1/2 and 1/4 a token: odds 1 and 1/3, -log sigma(log 3) = log(4/3) = 0.287682; log 2 and half of it
        ("orpo", {"odds_weight": 0.5}, (3 - 2 * math.log(2), 5 - 4 * math.log(4)), 0.836988),
        # at 1/2 a token for both: log 2 + 0.1 log 2
        ("orpo", {"odds_weight": 0.1}, (3 - 2 * math.log(2), 5 - 4 * math.log(2)), 1.1 * math.log(2)),
        # at the reference: 0.5 * (-3 + 5) = 1: log(1 + e^-1) = 0.313262, and 3 / 2
        ("cpo", {"beta": 0.5, "nll_weight": 1.0}, (0.0, 0.0), 1.813262),
        # 0.5 * (-1 + 6) = 2.5: log(1 + e^-2.5) = 0.078889, and 2 * 1 / 2
        ("cpo", {"beta": 0.5, "nll_weight": 2.0}, (2.0, -1.0), 1.078889),
    ],
)
def test_a_loss_has_the_value_worked_by_hand(
    loss: str, parameters: dict[str, float], logratios: tuple[float, float], expected: float
) -> None:
    for one in catalogue.pair_loss(loss, parameters):
        assert one(record(*logratios)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpo"])
def test_the_reference_does_not_matter(name: str) -> None:
    other = replace(record(2.0, -1.0), reference_chosen=-torch.ones(1) * 70, reference_rejected=-torch.ones(1) * 9)
    for one in catalogue.pair_loss(name, PARAMETERS[name]):
        assert one(other).item() == one(record(2.0, -1.0)).item()


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpo"])
def test_a_loss_falls_as_chosen_becomes_likelier_and_rejected_less_likely(name: str) -> None:
    one, _ = catalogue.pair_loss(name, PARAMETERS[name])
    for pairs in (
        [record(c, 0.0) for c in (-9.0, -1.0, 0.0, 2.0)],
        [record(0.0, r) for r in (3.0, 1.0, 0.0, -9.0)],
    ):
        costs = [one(pair).item() for pair in pairs]
        assert costs == sorted(costs, reverse=True)
        assert len(set(costs)) == 4


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_a_loss_per_token_is_the_same_for_an_answer_said_twice(name: str) -> None:
    once = record(2.0, -1.0)  # -1 over 2 tokens, -6 over 4
    twice = record(1.0, -7.0, 4, 8)  # -2 over 4 tokens, -12 over 8
    one, _ = catalogue.pair_loss(name, PARAMETERS[name])
    assert one(twice).item() == pytest.approx(one(once).item(), abs=1e-12)


def test_without_the_odds_orpo_is_the_likelihood_of_chosen() -> None:
    assert reference_free.orpo(record(2.0, -1.0), odds_weight=0.0).item() == 0.5


def test_without_the_likelihood_cpo_is_dpo_on_a_reference_that_likes_both_alike() -> None:
    pair = record(2.0, -1.0)
    alike = replace(pair, reference_chosen=-torch.ones(1), reference_rejected=-torch.ones(1))
    expected = pairwise.sigmoid(alike, beta=0.5).item()
    assert reference_free.cpo(pair, beta=0.5, nll_weight=0.0).item() == pytest.approx(expected, abs=1e-12)


def test_the_odds_of_an_answer_that_is_certain_stay_finite() -> None:
    # log odds of -1e-6 are log(1 / 1e-6) = 13.815510, less half of 1e-6; those of rejected, at 1/4 a token, log(1/3)
    certain = record(3.0, 5 - 4 * math.log(4))
    cost = reference_free.orpo(certain, odds_weight=1.0).item()
    assert cost == pytest.approx(math.log1p(math.exp(-13.815510 - math.log(3))), rel=1e-5)
