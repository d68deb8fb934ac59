"""What is measured on pairs and on single answers, by hand."""

import math

import pytest
import torch

from preftune.losses.answers import AnswerLogps
from preftune.losses.logps import PairLogps
from preftune.training.metrics import (
    answer_metrics,
    answer_reward_metrics,
    pair_metrics,
    pairs_of,
    reward_metrics,
    source_metrics,
)


def logps(chosen: list[float], rejected: list[float], lengths: tuple[list[int], list[int]] | None = None) -> PairLogps:
    """Log-ratios as given; reference log-probabilities of -4, and lengths of 2 and 4 unless given."""
    base = torch.full((len(chosen),), -4.0)
    of_chosen, of_rejected = lengths or ([2] * len(chosen), [4] * len(chosen))
    return PairLogps(
        base + torch.tensor(chosen),
        base + torch.tensor(rejected),
        base,
        base,
        torch.tensor(of_chosen),
        torch.tensor(of_rejected),
    )


def test_a_tie_counts_one_half() -> None:
    metrics = pair_metrics(logps([1.0, 0.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]))
    assert metrics["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert metrics["logratio/margin"] == pytest.approx(0.5)


def test_quantiles_lie_on_the_line_between_neighbours() -> None:
    # five sorted margins stand at 0, 1, 2, 3, 4: 5 % is at 0.2 and 95 % at 3.8 of those steps of 10
    metrics = pair_metrics(logps([30.0, 0.0, 40.0, 10.0, 20.0], [0.0] * 5))
    quantiles = [metrics[f"logratio/margin_{name}"] for name in ("p05", "p50", "p95")]
    assert quantiles == pytest.approx([2.0, 20.0, 38.0])


def test_the_chosen_answers_that_fall_are_counted_and_those_that_stay_are_not() -> None:
    metrics = pair_metrics(logps([1.0, 0.0, -1.0, -2.0], [9.0, 9.0, -9.0, -9.0]))
    assert metrics["logratio/chosen_falls"] == 0.5


def test_the_correlation_is_pearsons_of_margin_and_difference_in_length() -> None:
    # margins 0, 1, 3 less their mean 4/3; differences 0, 2, 1 less 1: products sum to 4/3 - 1/3 = 1, squares to 42/9, 2
    metrics = pair_metrics(logps([0.0, 1.0, 3.0], [0.0] * 3, ([5, 7, 6], [5, 5, 5])))
    assert metrics["logratio/length_correlation"] == pytest.approx(1 / math.sqrt(42 / 9 * 2))


@pytest.mark.parametrize(
    ("chosen", "lengths"),
    [
        ([1.0, 1.0, 1.0], ([5, 7, 6], [5, 5, 5])),
        ([1.0, 1.0 + 1e-5, 1.0], ([5, 7, 6], [5, 5, 5])),  # what float32 leaves of equal numbers
        ([0.0, 1.0, 3.0], ([5, 5, 5], [4, 4, 4])),
        ([1.0], ([5], [4])),
    ],
)
def test_what_is_constant_has_no_correlation(chosen: list[float], lengths: tuple[list[int], list[int]]) -> None:
    metrics = pair_metrics(logps(chosen, [0.0] * len(chosen), lengths))
    assert "logratio/length_correlation" not in metrics


def test_log_probabilities_per_token_are_means_over_tokens() -> None:
    metrics = pair_metrics(logps([1.0, 0.0], [0.0, -2.0]))
    assert metrics["logps/chosen_per_token"] == pytest.approx((-3 - 4) / 4)
    assert metrics["logps/rejected_per_token"] == pytest.approx((-4 - 6) / 8)
    assert metrics["logps/chosen_per_token_change"] == pytest.approx(1 / 4)
    assert metrics["logps/rejected_per_token_change"] == pytest.approx(-2 / 8)


def test_a_longer_answer_weighs_more_in_the_mean_over_tokens() -> None:
    zero = torch.zeros(2)
    lengths = torch.tensor([1, 3])
    record = PairLogps(torch.tensor([-5.0, -3.0]), zero, zero, zero, lengths, lengths)
    assert pair_metrics(record)["logps/chosen_per_token"] == pytest.approx((-5 - 3) / 4)


def test_the_divergence_on_chosen_is_their_mean_log_ratio_and_lengths_are_means() -> None:
    metrics = pair_metrics(logps([1.0, 4.0], [0.0, 0.0], ([3, 6], [1, 2])))
    assert metrics["kl/chosen"] == pytest.approx(2.5)
    assert (metrics["length/chosen"], metrics["length/rejected"]) == (4.5, 1.5)


def test_each_source_is_measured_apart_and_one_without_pairs_is_left_out() -> None:
    record = logps([1.0, -1.0, 0.0, 5.0], [0.0] * 4)
    found = source_metrics(record, torch.tensor([0, 0, 2, 2]), ("a", "b", "org/c[test]"))
    assert found == {
        "sources/a/accuracy": 0.5,
        "sources/a/margin": 0.0,
        "sources/a/pairs": 2.0,
        "sources/org/c[test]/accuracy": 0.75,
        "sources/org/c[test]/margin": 2.5,
        "sources/org/c[test]/pairs": 2.0,
    }


def test_rewards_are_beta_times_the_log_ratio() -> None:
    metrics = reward_metrics(logps([1.0, 3.0], [0.0, 4.0]), beta=0.5)
    assert metrics["rewards/chosen"] == pytest.approx(1.0)
    assert metrics["rewards/margins"] == pytest.approx(0.0)
    assert metrics["rewards/accuracies"] == pytest.approx(0.5)


def answers(desirable: list[bool]) -> AnswerLogps:
    """Log-ratios of 2, -4, -6, ...; lengths of 2, 4, 6, ...; mismatched log-ratios of -1."""
    count = len(desirable)
    ratios = torch.tensor([2.0, -4.0, -6.0, -8.0][:count])
    zero = torch.zeros(count)
    lengths = 2 * torch.arange(1, count + 1)
    return AnswerLogps(torch.tensor(desirable), ratios - 10, zero - 10, zero - 1, zero, lengths, lengths)


def test_single_answers_go_by_the_names_of_the_sides() -> None:
    metrics = answer_metrics(answers([True, False, True, False]))
    assert metrics == pytest.approx(
        {
            "logps/chosen_per_token": (-8 - 16) / (2 + 6),
            "logps/chosen_per_token_change": (2 - 6) / (2 + 6),
            "length/chosen": 4.0,
            "kl/chosen": -2.0,
            "logratio/chosen_falls": 0.5,
            "logps/rejected_per_token": (-14 - 18) / (4 + 8),
            "logps/rejected_per_token_change": (-4 - 8) / (4 + 8),
            "length/rejected": 6.0,
        }
    )


def test_a_side_without_answers_has_no_metrics() -> None:
    assert not [name for name in answer_metrics(answers([False, False])) if "chosen" in name]


def test_rewards_of_single_answers_are_means_of_each_side() -> None:
    metrics = answer_reward_metrics(answers([True, False, True, False]), beta=0.5)
    assert metrics == pytest.approx(
        {
            "kl": 0.0,  # the mismatched log-ratios are below 0
            "rewards/chosen": -1.0,
            "rewards/rejected": -3.0,
            "rewards/margins": 2.0,
            "logps/chosen": -12.0,
            "logps/rejected": -16.0,
        }
    )


def test_answers_in_turn_are_pairs() -> None:
    pairs = pairs_of(answers([True, False, True, False]))
    assert pairs.margin().tolist() == [6.0, 2.0]
    assert [each.tolist() for each in pairs.lengths()] == [[2, 6], [4, 8]]
