"""Losses of the margin with a term that bounds it: values worked by hand, and properties."""

import math

import pytest
import torch

from preftune.losses import catalogue, pairwise, regularized
from tests.losses import record


@pytest.mark.parametrize(
    ("loss", "parameters", "logratios", "expected"),
    [
        ("dpop", {"beta": 0.1, "penalty": 50.0}, (0.0, 0.0), math.log(2)),
        # chosen has risen: margin 3, log(1 + e^-1.5)
        ("dpop", {"beta": 0.5, "penalty": 2.0}, (2.0, -1.0), 0.201413),
        # margin 1 less 2 * 1 is -1: log(1 + e^0.5) = 0.974077
        ("dpop", {"beta": 0.5, "penalty": 2.0}, (-1.0, -2.0), 0.974077),
        # lengths 2 and 4: 0.5 * 0 + 0.25 * (2 - 4) = -0.5
        ("rdpo", {"beta": 0.5, "alpha": 0.25}, (0.0, 0.0), 0.974077),
        # 0.5 * 3 - 0.5 = 1: log(1 + e^-1) = 0.313262
        ("rdpo", {"beta": 0.5, "alpha": 0.25}, (2.0, -1.0), 0.313262),
        # at the reference: log 2 + 1 / (2 * 0.01)
        ("cal_dpo", {"beta": 0.1}, (0.0, 0.0), math.log(2) + 50),
        # targets 1 and -1: log(1 + e^-3) = 0.048587, (2 - 1)^2, (-1 + 1)^2
        ("cal_dpo", {"beta": 0.5}, (2.0, -1.0), 1.048587),
        ("ipo_sum", {"beta": 0.1}, (0.0, 0.0), 25.0),
        # (3 - 1)^2
        ("ipo_sum", {"beta": 0.5}, (2.0, -1.0), 4.0),
    ],
)
def test_a_loss_has_the_value_worked_by_hand(
    loss: str, parameters: dict[str, float], logratios: tuple[float, float], expected: float
) -> None:
    for one in catalogue.pair_loss(loss, parameters):
        assert one(record(*logratios)).item() == pytest.approx(expected, abs=1e-6)


def test_without_its_term_a_loss_is_dpo() -> None:
    for pair in (record(2.0, -1.0), record(-2.0, -3.0)):
        dpo = pairwise.sigmoid(pair, beta=0.5).item()
        assert regularized.dpop(pair, beta=0.5, penalty=0.0).item() == pytest.approx(dpo, abs=1e-12)
        assert regularized.rdpo(pair, beta=0.5, alpha=0.0).item() == pytest.approx(dpo, abs=1e-12)


def test_dpop_is_dpo_where_chosen_has_risen_and_costs_more_where_it_has_fallen() -> None:
    for chosen in (0.0, 0.5, 4.0):
        pair = record(chosen, chosen - 1)
        assert regularized.dpop(pair, beta=0.5, penalty=5.0).item() == pairwise.sigmoid(pair, beta=0.5).item()
    costs = [regularized.dpop(record(c, c - 1), beta=0.5, penalty=5.0).item() for c in (0.0, -0.1, -1.0, -4.0)]
    assert costs == sorted(costs)
    assert costs[0] < costs[1]


def test_rdpo_asks_less_the_longer_chosen_is() -> None:
    costs = [regularized.rdpo(record(2.0, -1.0, tokens, 4), beta=0.5, alpha=0.1).item() for tokens in (9, 4, 2, 1)]
    assert costs == sorted(costs)
    assert costs[1] == pairwise.sigmoid(record(2.0, -1.0), beta=0.5).item()


def test_cal_dpo_tells_a_fall_of_both_answers_from_none() -> None:
    level, fallen = (regularized.cal_dpo(record(c, c - 2), beta=0.5).item() for c in (1.0, -1.0))
    # with targets 1 and -1, both 2 lower: (-2)^2 + (-2)^2 more
    assert fallen - level == pytest.approx(8)


def test_cal_dpo_does_not_change_where_log_ratios_are_turned_round_and_negated() -> None:
    torch.testing.assert_close(
        regularized.cal_dpo(record(2.0, -0.5), beta=0.3), regularized.cal_dpo(record(0.5, -2.0), beta=0.3)
    )


def test_ipo_sum_is_ipo_on_answers_of_one_token() -> None:
    pair = record(2.0, -1.0, 1, 1)
    assert regularized.ipo_sum(pair, beta=0.3).item() == pytest.approx(pairwise.ipo(pair, beta=0.3).item())
    longer = record(2.0, -1.0, 7, 3)
    assert regularized.ipo_sum(longer, beta=0.3).item() == regularized.ipo_sum(pair, beta=0.3).item()
