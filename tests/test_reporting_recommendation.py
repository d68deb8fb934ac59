"""The sentence that recommends a job, and how sure it says that is; the numbers are worked by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from preftune.reporting.comparison import read_runs, read_sweep
from preftune.reporting.recommendation import Recommendation, recommend
from tests import sweeps

Rewards = Sequence[tuple[float, float | None, str]]


def advice(root: Path, rewards: Rewards, objective: str = "auto") -> Recommendation:
    """Recommend among runs of beta 1, 2, ..., each with its true reward, standard error and verdict."""
    runs = []
    for beta, (mean, stderr, word) in enumerate(rewards, start=1):
        path = sweeps.write_run(root / str(beta), sweeps.configuration(beta, 0), sweeps.events(beta, 0))
        runs.append(sweeps.rewarded(path, mean, stderr, word))
    return recommend(read_runs(runs, objective))


def test_a_difference_of_two_standard_errors_is_clear(tmp_path: Path) -> None:
    # The error of the difference is sqrt(0.3 ** 2 + 0.4 ** 2) = 0.5, and 1.1 is 2.2 of it.
    advised = advice(tmp_path, [(2.0, 0.4, "healthy"), (3.1, 0.3, "healthy")])
    assert advised.sure == "clear"
    assert advised.sentence == (
        "Take beta=2: its true reward of 3.100 ± 0.300 is the best of 2 healthy jobs, 2.2 standard errors (over 64 "
        "prompts; 2 would be clear) above beta=1 (2.000 ± 0.400), which is clear."
    )
    assert (advised.rank, advised.label, advised.advice) == (1, "beta=2", "")


@pytest.mark.parametrize(
    ("mean", "sure", "words"),
    [(2.6, "likely", "1.2 standard errors"), (2.4, "open", "does not tell the two apart")],
)
def test_a_smaller_difference_is_likely_or_open_and_says_what_to_do(
    tmp_path: Path, mean: float, sure: str, words: str
) -> None:
    advised = advice(tmp_path, [(2.0, 0.4, "healthy"), (mean, 0.3, "healthy")])
    assert advised.sure == sure
    assert words in advised.sentence
    assert advised.advice == (
        "To know, add seed=0,1,2 to the command, or sample more prompts with evaluate.prompts (64 now)."
    )


def test_over_seeds_the_threshold_is_that_of_students_t(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.1, 0.2), seeds=(0, 1, 2))
    for beta, middle in ((0.1, 4.0), (0.2, 2.0)):
        for seed in range(3):
            sweeps.rewarded(tmp_path / "runs" / f"tiny-toy-sigmoid-{beta}-{seed}", middle + seed - 1, 0.1)
    advised = recommend(read_sweep(directory))
    # Both errors are 1 / sqrt(3); 2 / sqrt(2 / 3) = 2.45 is below 2.78, the 97.5th percentile with 4 degrees.
    assert advised.sure == "likely"
    assert "2.4 standard errors (over 3 seeds; 2.78 would be clear)" in advised.sentence
    assert "add seeds: seed=0,1,2,3,4,5" in advised.advice


def test_a_better_job_that_is_not_healthy_is_passed_over_by_name(tmp_path: Path) -> None:
    advised = advice(tmp_path, [(9.0, 0.1, "displaced"), (3.0, 0.1, "healthy"), (1.0, 0.1, "healthy")])
    assert (advised.label, advised.rank) == ("beta=2", 2)
    assert advised.sentence.endswith("Higher, but not healthy: beta=1 (9.000 ± 0.100, displaced).")


def test_where_none_is_healthy_none_is_recommended(tmp_path: Path) -> None:
    advised = advice(tmp_path, [(1.0, 0.1, "displaced"), (3.0, 0.1, "collapsed")])
    assert (advised.label, advised.sure) == (None, "none")
    assert advised.sentence == (
        "No job is healthy (1 collapsed, 1 displaced), so none is recommended. By true reward beta=2 is first with "
        "3.000 ± 0.100, but collapsed."
    )
    assert advised.advice == "It is collapsed."


def test_the_only_healthy_job_stands_alone(tmp_path: Path) -> None:
    advised = advice(tmp_path, [(1.0, 0.1, "healthy"), (0.5, 0.1, "collapsed")])
    assert advised.sure == "alone"
    assert advised.sentence == (
        "Take beta=1: its true reward of 1.000 ± 0.100 stands alone: it is the only healthy job of 2."
    )


def test_without_a_standard_error_it_says_that_it_cannot_know(tmp_path: Path) -> None:
    advised = advice(tmp_path, [(1.0, 0.1, "healthy"), (0.5, 0.1, "healthy")], "eval.logratio_margin")
    assert advised.sure == "unknown"
    assert "how sure that is cannot be said, as no standard error is known" in advised.sentence
    assert "hold out more pairs with data.test_size" in advised.advice


def test_equal_numbers_without_spread_are_not_told_apart(tmp_path: Path) -> None:
    assert advice(tmp_path, [(1.0, 0.0, "healthy"), (1.0, 0.0, "healthy")]).sure == "open"


def test_an_objective_that_no_job_has_is_said(tmp_path: Path) -> None:
    path = sweeps.write_run(tmp_path / "one", sweeps.configuration(0.1, 0), sweeps.events(0.1, 0))
    sweeps.change(path / "summary.json", win_rate=None)
    advised = recommend(read_runs([path], "win_rate"))
    assert advised.sentence == "No job has a win rate: there is nothing to recommend."
    sweeps.fail(path, "out of memory")
    assert recommend(read_runs([path])).sentence.startswith("No job came to a result")
