"""The front of the trackers: what is kept at the end of a run, and the report of a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.runs.settings import TrackSettings
from preftune.runs.watching import log_sweep_report, watching
from tests import wandb_files
from tests.wandb_files import CONFIGURATION, WANDB, artifacts, configuration, offline_runs, started, summary, tables

no_account = pytest.fixture(autouse=True)(wandb_files.no_account)
SWEEP = {
    "name": "betas",
    "identity": "0123",
    "objective": "auto",
    "command": ["loss.beta=0.01,0.1"],
    "axes": ["loss.beta"],
    "concluded": True,
    "jobs": [
        {
            "number": number,
            "overrides": [f"loss.beta={beta}"],
            "axes": {"loss.beta": beta},
            "directory": f"runs/{number}",
            "state": state,
            "code": code,
            "reason": reason,
            "seconds": 31.5,
            "trained": True,
        }
        for number, beta, state, code, reason in (
            (0, 0.01, "complete", 0, None),
            (1, 0.1, "failed", 1, "out of memory"),
        )
    ],
}


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A run's directory with what a training leaves in it."""
    directory = tmp_path / "run"
    (directory / "adapter").mkdir()
    for name in ("data.html", "data.json", "ledger.json", "report.html", "adapter/adapter_model.safetensors"):
        (directory / name).write_text(name)
    return directory


def track(directory: Path, settings: TrackSettings, **how: Any) -> None:
    with watching(settings, directory, CONFIGURATION, True, **how) as tracker:
        tracker.log({"loss": 0.5}, step=0)


def test_a_run_keeps_its_reports_and_on_request_its_adapter(run_directory: Path) -> None:
    track(run_directory, WANDB)
    track(run_directory, WANDB.model_copy(update={"log_adapter": True}))
    plain, with_adapter = offline_runs(run_directory)
    reports = {"data-report": ["data.html", "data.json", "ledger.json"], "report": ["report.html"]}
    assert artifacts(plain) == reports
    assert artifacts(with_adapter) == reports | {"model": ["adapter_model.safetensors"]}


@pytest.mark.parametrize(("error", "code"), [(ValueError, 1), (KeyboardInterrupt, 143)])
def test_a_run_that_ends_early_keeps_its_reports_and_no_adapter(
    run_directory: Path, error: type[BaseException], code: int
) -> None:
    settings = WANDB.model_copy(update={"log_adapter": True})
    with pytest.raises(error), watching(settings, run_directory, CONFIGURATION, True):
        raise error
    (run,) = offline_runs(run_directory)
    assert set(artifacts(run)) == {"data-report", "report"}
    assert [record.exit.exit_code for record in run if record.HasField("exit")] == [code]
    assert any(record.HasField("preempting") for record in run) == (code == 143)


def test_a_job_stands_in_the_group_of_its_sweep(run_directory: Path) -> None:
    track(run_directory, WANDB, sweep="betas")
    (run,) = offline_runs(run_directory)
    assert (started(run).run_group, started(run).display_name) == ("betas", "run")


def test_a_dry_run_is_not_tracked(run_directory: Path) -> None:
    with watching(WANDB, run_directory, CONFIGURATION, False) as tracker:
        assert tracker.describe().startswith("nothing beside")
    assert not (run_directory / "wandb").exists()


def test_the_report_of_a_sweep_is_a_run_in_its_group(tmp_path: Path) -> None:
    directory = tmp_path / "sweeps" / "betas"
    directory.mkdir(parents=True)
    (directory / "sweep.json").write_text(json.dumps(SWEEP))
    (directory / "sweep.csv").write_text("job,loss.beta\n")
    for _ in range(2):
        where = log_sweep_report(WANDB, "betas", directory)
    assert where
    assert where.startswith("W&B offline")
    first, again = offline_runs(directory)
    assert started(first).run_id == started(again).run_id
    about = started(again)
    assert (about.run_group, about.job_type, about.display_name) == ("betas", "sweep", "sweep-betas")
    assert configuration(again)["sweep"] == {"name": "betas", "objective": "auto", "axes": ["loss.beta"]}
    assert summary(again)["complete"] == 1
    assert artifacts(again)["sweep-report"] == ["sweep.csv", "sweep.json"]
    table = tables(directory)[0]
    assert table["columns"] == ["job", "loss.beta", "state", "code", "reason", "seconds", "directory"]
    assert table["data"] == [
        [0, 0.01, "complete", 0, None, 31.5, "runs/0"],
        [1, 0.1, "failed", 1, "out of memory", 31.5, "runs/1"],
    ]


@pytest.mark.parametrize("name", ["none", "tensorboard"])
def test_the_report_of_a_sweep_goes_to_wandb_alone(tmp_path: Path, name: Any) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    assert log_sweep_report(TrackSettings(name=name), "betas", tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "home", "run"}
