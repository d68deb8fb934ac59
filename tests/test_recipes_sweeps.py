"""Sweeps from the command line: what they leave, what a second start does, and jobs that fail."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.logged import events
from tests.test_recipes import SMALL, command, read
from tests.wandb_files import artifacts, history, offline_runs, seen_on_disk, started, tables

MOODY = '''
import inspect, os, resource, signal
from pathlib import Path
import torch


def moody(logps, *, beta: float, mode: str):
    """Does in training what its mode says, while a file of that name lies beside it."""
    if Path(mode).exists() and any(frame.function == "training_step" for frame in inspect.stack()):
        if mode == "crash":
            raise ZeroDivisionError("as asked")
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.RLIM_INFINITY))
            torch.zeros(2**33)
    return torch.nn.functional.softplus(-beta * logps.margin())
'''
MODES = ("crash", "kill", "memory")
FAILING = ("-m", "loss.name=moody.moody", "loss.params.beta=0.1", "loss.params.mode=fine,crash,kill,memory", *SMALL)
LONG = (*SMALL, "train.max_steps=100000")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the toy's model with other tests, and nothing else that is kept."""
    toy = Path(os.environ["PREFTUNE_CACHE"]) / "toy"
    toy.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toy").symlink_to(toy)
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


def sweep(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    process = command(*arguments, cwd=cwd)
    printed, errors = process.communicate(timeout=550)
    return process.returncode, printed, errors


def record(directory: Path) -> dict[str, Any]:
    (file,) = (directory / "sweeps").glob("*/sweep.json")
    return read(file)


def first_job_at_step(directory: Path, step: int) -> Path:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for status in directory.glob("runs/*/status.json"):
            if read(status)["step"] >= step:
                return status.parent
        time.sleep(0.2)
    raise AssertionError(f"no job came to step {step}")


def test_three_jobs_that_end_badly_are_named_and_only_they_run_again(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    for mode in MODES:
        (tmp_path / mode).touch()
    code, printed, errors = sweep(*FAILING, cwd=tmp_path)
    jobs = {job["axes"]["loss.params.mode"]: job for job in record(tmp_path)["jobs"]}
    assert code == 1
    assert {mode: job["state"] for mode, job in jobs.items()} == {
        "fine": "complete",
        "crash": "failed",
        "kill": "killed",
        "memory": "failed",
    }
    assert jobs["kill"]["code"] == -signal.SIGKILL
    for mode, reason in {
        "crash": "ZeroDivisionError: as asked",
        "kill": "killed by SIGKILL, as the kernel does where memory runs out",
        "memory": "allocate memory",
    }.items():
        assert reason in jobs[mode]["reason"]
        assert f"loss.params.mode={mode}: {jobs[mode]['state']}" in errors
        assert read(tmp_path / jobs[mode]["directory"] / "status.json")["state"] == "failed"
        (tmp_path / mode).unlink()
    assert "3 of 4 jobs did not complete" in errors
    assert "as asked" in (tmp_path / jobs["crash"]["directory"] / "traceback.txt").read_text()
    code, printed, errors = sweep(*FAILING, cwd=tmp_path)
    assert code == 0, errors
    again = {job["axes"]["loss.params.mode"]: job for job in record(tmp_path)["jobs"]}
    assert {mode for mode, job in again.items() if job["trained"]} == set(MODES)
    assert {job["state"] for job in again.values()} == {"complete"}
    assert "loss.params.mode=fine  complete before" in printed


def test_five_betas_share_a_reference_and_a_group_and_each_leaves_the_bits_of_its_solo_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "canary" * 6)
    watched = ("-m", "loss.beta=0.01,0.05,0.1,0.2,0.5", *SMALL[:-1], "track=wandb")
    code, printed, errors = sweep(*watched, cwd=tmp_path)
    assert code == 0, errors
    found = record(tmp_path)
    assert found["axes"] == ["loss.beta"]
    assert [job["axes"]["loss.beta"] for job in found["jobs"]] == [0.01, 0.05, 0.1, 0.2, 0.5]
    assert found["concluded"]
    assert "3/5  loss.beta=0.1  complete" in printed
    jobs = [tmp_path / one["directory"] for one in found["jobs"]]
    assert [read(one / "summary.json")["reference_computed"] for one in jobs] == [64, 0, 0, 0, 0]
    assert "margin of log-ratios" in (jobs[2] / "output.log").read_text()
    runs = [run for one in jobs for run in offline_runs(one)]
    assert len({started(run).run_id for run in runs}) == len(runs) == 5
    (of_sweep,) = offline_runs(tmp_path / "sweeps" / found["name"])
    assert {started(run).run_group for run in [*runs, of_sweep]} == {found["name"]}
    assert "sweep-report" in artifacts(of_sweep)
    for one, run in zip(jobs, runs, strict=True):
        measured = {key for row in history(run) for key in row}
        assert {"loss", "eval_logratio/margin", "eval_kl/chosen", "kl/sampled"} <= measured
        assert {"policy", "reference"} <= set(tables(one)[-1]["columns"])
    assert b"canary" not in seen_on_disk(tmp_path)
    code, printed, errors = sweep(*watched, cwd=tmp_path)
    assert code == 0, errors
    assert not any(job["trained"] for job in record(tmp_path)["jobs"])
    code, _, errors = sweep("loss.beta=0.1", *SMALL, "run.dir=solo", cwd=tmp_path)
    assert code == 0, errors
    weights = "adapter/adapter_model.safetensors"
    assert (jobs[2] / weights).read_bytes() == (tmp_path / "solo" / weights).read_bytes()
    assert events(jobs[2]) == events(tmp_path / "solo")
    assert len(events(jobs[2])) > 3


def test_the_first_failure_keeps_the_rest_from_running_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    (tmp_path / "crash").touch()
    modes = [line.replace("fine,crash,kill,memory", "crash,fine") for line in FAILING]
    code, _, errors = sweep(*modes, "sweep.fail_fast=true", "sweep.name=fast", cwd=tmp_path)
    assert code == 1
    assert [job["state"] for job in record(tmp_path)["jobs"]] == ["failed", "not_run"]
    assert "mode=fine: not_run, an earlier job failed, and sweep.fail_fast is true" in errors
    assert (tmp_path / "sweeps" / "fast").is_dir()


@pytest.mark.parametrize(
    "launcher", [("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), ("hydra/launcher=submitit_local",)]
)
def test_jobs_run_beside_one_another_and_share_one_reference(launcher: tuple[str, ...], tmp_path: Path) -> None:
    code, _, errors = sweep("-m", "loss.beta=0.05,0.1", *launcher, *SMALL, cwd=tmp_path)
    assert code == 0, errors
    jobs = record(tmp_path)["jobs"]
    assert [job["state"] for job in jobs] == ["complete", "complete"]
    computed = [read(tmp_path / job["directory"] / "summary.json")["reference_computed"] for job in jobs]
    assert sorted(computed) == [0, 64]


def test_optuna_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked = ("-m", "loss.beta=tag(log,interval(0.01,0.5))", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=0")
    for trials, in_all in ((2, 2), (3, 3), (3, 3)):
        code, _, errors = sweep(*asked, f"hydra.sweeper.n_trials={trials}", *SMALL, cwd=tmp_path)
        assert code == 0, errors
        assert len(list((tmp_path / "runs").iterdir())) == in_all
    (name,) = (tmp_path / "sweeps").iterdir()
    assert "best_value" in (name / "optimization_results.yaml").read_text()


def test_ctrl_c_stops_the_job_and_the_sweep(tmp_path: Path) -> None:
    process = command("-m", "loss.beta=0.05,0.1", *LONG, cwd=tmp_path, start_new_session=True)
    job = first_job_at_step(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by Ctrl-C; the same command goes on; see sweeps/" in errors
    assert read(job / "status.json")["state"] == "preempted"
    assert [one["state"] for one in record(tmp_path)["jobs"]] == ["preempted", "not_run"]


def test_a_job_whose_sweep_is_killed_is_preempted_and_leaves_no_process(tmp_path: Path) -> None:
    process = command("-m", "loss.beta=0.05,0.1", *LONG, cwd=tmp_path)
    job = first_job_at_step(tmp_path, 2)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while read(job / "status.json")["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert read(job / "status.json")["state"] == "preempted"
    while Path(f"/proc/{read(job / 'status.json')['pid']}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{read(job / 'status.json')['pid']}").exists()
