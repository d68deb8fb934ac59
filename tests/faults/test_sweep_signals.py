"""What stops a sweep stops its jobs first; a job whose run is under way elsewhere waits for it. Real processes."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.forked import wait_for
from tests.test_recipes import SMALL, command, read
from tests.test_recipes_sweeps import LONG, _own_cache, record  # noqa: F401  # a fixture is found by its name

TWO_AT_ONCE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def training(directory: Path, jobs: int) -> list[Path]:
    """Wait until so many runs have done two steps, and return their directories."""

    def found() -> list[Path]:
        return [status.parent for status in directory.glob("runs/*/status.json") if read(status)["step"] >= 2]

    wait_for(lambda: len(found()) >= jobs, 240)
    return found()


def states(directory: Path) -> list[str]:
    return [job["state"] for job in record(directory)["jobs"]]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    return process.returncode, errors


def alive(process: Any) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.parametrize(
    ("launcher", "number", "name"),
    [((), signal.SIGTERM, "SIGTERM"), (TWO_AT_ONCE, signal.SIGUSR1, "SIGUSR1")],
    ids=["one at a time", "two at once"],
)
def test_what_stops_a_sweep_stops_its_jobs_first(
    launcher: tuple[str, ...], number: signal.Signals, name: str, tmp_path: Path
) -> None:
    process = command("-m", "loss.beta=0.05,0.1,0.2", *launcher, *LONG, cwd=tmp_path)
    at_once = 2 if launcher else 1
    jobs = training(tmp_path, at_once)
    process.send_signal(number)
    code, errors = ended(process)
    assert code == 143
    assert f"stopped by {name}; the same command goes on; see sweeps/" in errors
    assert states(tmp_path) == ["preempted"] * at_once + ["not_run"] * (3 - at_once)
    for job in jobs:
        status = read(job / "status.json")
        assert (status["state"], status["exit_code"]) == ("preempted", 143)
        wait_for(lambda: not alive(status["pid"]), 30)  # noqa: B023


def test_submitit_requeues_a_job_that_is_preempted_and_it_goes_on(tmp_path: Path) -> None:
    process = command("-m", "loss.beta=0.05", "hydra/launcher=submitit_local", *LONG, cwd=tmp_path)
    (run,) = training(tmp_path, 1)
    first = read(run / "status.json")
    (job,) = record(tmp_path)["jobs"]
    os.kill(job["pid"], signal.SIGUSR2)
    wait_for(lambda: read(run / "status.json")["state"] == "preempted", 60)
    wait_for(lambda: read(run / "status.json")["pid"] != first["pid"], 120)
    assert training(tmp_path, 1) == [run]
    (again,) = record(tmp_path)["jobs"]
    assert again["state"] == "running"
    assert again["pid"] != job["pid"]
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process)[0] == 143
    assert states(tmp_path) == ["preempted"]


def test_a_job_whose_run_is_under_way_elsewhere_waits_and_finds_it_complete(tmp_path: Path) -> None:
    long = [*SMALL, "train.max_steps=60"]
    alone = command("loss.beta=0.1", *long, cwd=tmp_path)
    training(tmp_path, 1)
    sweep = command("-m", "loss.beta=0.1", *long, cwd=tmp_path)
    assert ended(alone)[0] == 0
    code, errors = ended(sweep)
    assert code == 0
    assert errors.count(f"is in use by process {alone.pid} on ") == 1
    (job,) = record(tmp_path)["jobs"]
    assert (job["state"], job["trained"]) == ("complete", False)
