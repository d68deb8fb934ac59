"""Runs side by side: which settings differ, seeds as one, the ranking, and what came to no result."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from preftune.refusals import Refusal
from preftune.reporting.axes import differing, label, shown
from preftune.reporting.comparison import Comparison, read_runs, read_sweep
from tests import sweeps


def run(root: Path, name: str, beta: float = 0.1, seed: int = 0, **more: Any) -> Path:
    return sweeps.write_run(root / name, sweeps.configuration(beta, seed, **more), sweeps.events(beta, seed))


def labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


def test_settings_that_differ_are_axes_but_not_where_and_how_a_run_is_made() -> None:
    first, second = sweeps.configuration(0.1, 0), sweeps.configuration(0.2, 0, launch={"name": "x"}, dry_run=True)
    assert differing([first, second]) == [{"loss.beta": 0.1}, {"loss.beta": 0.2}]


def test_a_setting_that_only_some_runs_have_is_no_axis_unless_those_differ() -> None:
    sigmoid, orpo = {"loss": {"name": "sigmoid", "beta": 0.1}}, {"loss": {"name": "orpo"}}
    assert differing([sigmoid, orpo]) == [{"loss.name": "sigmoid"}, {"loss.name": "orpo"}]
    other = {"loss": {"name": "sigmoid", "beta": 0.2}}
    assert differing([sigmoid, other, orpo])[2] == {"loss.name": "orpo"}
    assert differing([sigmoid, other, orpo])[1] == {"loss.name": "sigmoid", "loss.beta": 0.2}


def test_a_label_shortens_names_that_stay_their_own_and_long_fractions() -> None:
    assert label({"loss.beta": 0.1, "train.beta": 2}, ["loss.beta", "train.beta"]) == "loss.beta=0.1 train.beta=2"
    assert label({"loss.name": "ipo", "train.learning_rate": 0.000123456789}, ["loss.name", "train.learning_rate"]) == (
        "loss=ipo learning_rate=0.0001235"
    )
    assert [shown(value) for value in (None, True, 5e-06, [1, 2], "x y")] == ["null", "true", "5e-06", "[1, 2]", "x y"]


def test_a_sweep_is_ranked_by_the_true_reward_where_it_is_known(tmp_path: Path) -> None:
    comparison = read_sweep(sweeps.write_sweep(tmp_path, betas=(0.01, 0.1, 0.5)))
    assert comparison.objective == "true_reward.policy.mean"
    assert comparison.axes == ("loss.beta",)
    rewards = [row.values["true_reward"].mean for row in comparison.rows if row.values["true_reward"]]
    assert rewards == sorted(rewards, reverse=True)
    assert sorted(labels(comparison)) == ["beta=0.01", "beta=0.1", "beta=0.5"]
    assert [row.rank for row in comparison.rows] == [1, 2, 3]


def test_what_it_is_ranked_by_can_be_chosen(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.01, 0.1, 0.5))
    assert labels(read_sweep(directory, "eval.logratio_margin")) == ["beta=0.01", "beta=0.1", "beta=0.5"]
    sweeps.change(directory / "sweep.json", objective="win_rate")
    assert read_sweep(directory).objective == "win_rate"
    with pytest.raises(Refusal, match=r"the objective must be one of auto, .*, got eval\.loss"):
        read_sweep(directory, "eval.loss")


def test_without_a_true_reward_in_every_run_accuracy_ranks(tmp_path: Path) -> None:
    one, other = run(tmp_path, "one"), run(tmp_path, "other", beta=0.2)
    sweeps.change(other / "summary.json", true_reward=None)
    comparison = read_runs([one, other])
    assert comparison.objective == "eval.accuracy"
    assert labels(comparison) == ["beta=0.1", "beta=0.2"]


def test_jobs_that_differ_only_in_their_seed_are_one_row_with_mean_and_standard_error(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.1, 0.2), seeds=(0, 1, 2))
    for place, path in enumerate(sorted((tmp_path / "runs").glob("*0.1-*"))):
        sweeps.rewarded(path, [1.0, 2.0, 3.0][place], 0.5)
    comparison = read_sweep(directory)
    row = next(row for row in comparison.rows if row.label == "beta=0.1")
    spread = row.values["true_reward"]
    assert spread is not None
    # The deviation of 1, 2, 3 is 1; over three seeds the mean's error is 1 / sqrt(3).
    assert (spread.mean, spread.stderr, spread.n) == (2.0, pytest.approx(0.57735, abs=1e-5), 3)
    assert [job.number for job in row.jobs] == [0, 1, 2]
    assert (row.seconds, row.cost, row.unit) == (pytest.approx(16.0), pytest.approx(48.0), "core s")


def test_runs_that_are_no_sweep_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a", seed=0), run(tmp_path, "b", seed=1), run(tmp_path, "c", beta=0.2)]
    comparison = read_runs(runs)
    assert comparison.axes == ("loss.beta",)
    assert {row.label: len(row.jobs) for row in comparison.rows} == {"beta=0.1": 2, "beta=0.2": 1}


def test_seeds_alone_make_one_row_that_names_them(tmp_path: Path) -> None:
    assert labels(read_runs([run(tmp_path, "a", seed=0), run(tmp_path, "b", seed=7)])) == ["seed=0,7"]


def test_runs_with_nothing_between_them_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    first = run(tmp_path, "first")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    assert sorted(labels(read_runs([first, second]))) == ["run=first", "run=second"]


def test_jobs_without_a_result_stand_below_the_ranked_ones_with_their_reasons(tmp_path: Path) -> None:
    paths = {name: run(tmp_path / "runs", name, beta) for name, beta in (("ok", 0.1), ("bad", 0.2), ("torn", 0.3))}
    sweeps.fail(paths["bad"], "out of memory")
    (paths["torn"] / "summary.json").write_text('{"eval": {"accur', encoding="utf-8")
    directory = sweeps.write_jobs(
        tmp_path,
        [
            sweeps.job(0, {"loss.beta": 0.1}, "runs/ok"),
            sweeps.job(1, {"loss.beta": 0.2}, "runs/bad", "failed", code=1),
            sweeps.job(2, {"loss.beta": 0.3}, "runs/torn"),
            sweeps.job(3, {"loss.beta": 0.4}, "runs/gone", "killed", reason="killed by signal 9"),
            sweeps.job(4, {"loss.beta": 0.5}, None, "not_run"),
        ],
    )
    comparison = read_sweep(directory)
    assert labels(comparison) == ["beta=0.1"]
    assert [(job.number, job.told) for job in comparison.unranked] == [
        (1, "failed: out of memory"),
        (2, "unreadable: its summary.json is missing or cannot be read"),
        (3, "killed: killed by signal 9"),
        (4, "not run"),
    ]


def test_a_run_under_way_is_not_ranked(tmp_path: Path) -> None:
    done, going = run(tmp_path, "done"), run(tmp_path, "going", beta=0.2)
    sweeps.change(going / "status.json", state="running")
    (going / "summary.json").unlink()
    comparison = read_runs([done, going])
    assert [job.told for job in comparison.unranked] == ["running: it goes on, or was killed"]


def test_a_summary_of_before_these_metrics_is_read_with_gaps(tmp_path: Path) -> None:
    path = run(tmp_path, "old")
    kept = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    for name in ("win_rate", "length_sampled", "length_sampled_reference"):
        kept.pop(name)
    (path / "summary.json").write_text(json.dumps(kept), encoding="utf-8")
    (path / "plan.json").unlink()
    row = read_runs([path]).rows[0]
    assert row.values["win_rate"] is None
    assert row.values["length_change"] is None
    assert row.unit == "s"
    change = row.values["chosen_change"]
    # Without a change of its own the summary's end less its start.
    end, start = kept["eval"]["chosen_logp_per_token"], kept["eval_start"]["chosen_logp_per_token"]
    assert change is not None
    assert change.mean == pytest.approx(end - start)


def test_a_change_that_the_summary_states_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = run(tmp_path, "new")
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    sweeps.change(path / "summary.json", eval={**summary["eval"], "chosen_logp_per_token_change": -0.25})
    change = read_runs([path]).rows[0].values["chosen_change"]
    assert change is not None
    assert change.mean == -0.25


def test_an_accuracy_of_one_has_an_error_still(tmp_path: Path) -> None:
    path = run(tmp_path, "sure")
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    sweeps.change(path / "summary.json", eval={**summary["eval"], "accuracy": 1.0})
    accuracy = read_runs([path]).rows[0].values["accuracy"]
    assert accuracy is not None
    # 256 pairs and 2 + 2 more: 258 / 260, and sqrt(258/260 * 2/260 / 260) = 0.00542.
    assert (accuracy.mean, accuracy.stderr, accuracy.over) == (
        1.0,
        pytest.approx(0.00542, abs=1e-5),
        "256 held-out pairs",
    )


def test_seeds_whose_verdicts_differ_are_counted_and_not_healthy(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.1,), seeds=(0, 1, 2))
    sweeps.rewarded(tmp_path / "runs" / "tiny-toy-sigmoid-0.1-1", 1.0, 0.1, "displaced")
    row = read_sweep(directory).rows[0]
    assert (row.verdict, row.healthy) == ("2 healthy, 1 displaced", False)


def test_a_directory_that_is_no_run_and_a_run_given_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match=r"empty must be a run's directory \(a manifest\.json\) or a sweep's"):
        read_runs([tmp_path / "empty"])
    one = run(tmp_path, "one")
    with pytest.raises(Refusal, match=r"each run must be given once, got .*one 2 times"):
        read_runs([one, tmp_path / "empty" / ".." / "one"])


def test_a_sweep_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"must be a sweep's directory, got one without sweep\.json"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"jobs": [', encoding="utf-8")
    with pytest.raises(Refusal, match=r"sweep\.json must be JSON that can be read, got Expecting value"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"jobs": 3}', encoding="utf-8")
    with pytest.raises(Refusal, match=r"sweep\.json must hold a list of jobs"):
        read_sweep(tmp_path)
