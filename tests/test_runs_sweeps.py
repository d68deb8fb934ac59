"""A sweep's record and its devices, without a run."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preftune.refusals import Refusal, RunFailed
from preftune.runs import slots
from preftune.runs.search import complete_trials, search_overrides
from preftune.runs.sweep_record import Sweep
from preftune.runs.sweeps import sweeping, varied

JOBS: Any = [
    ([f"loss.beta={beta}", "seed=3"], {"loss": {"beta": beta}, "sweep": {"name": None, "objective": "auto"}})
    for beta in (0.1, 0.2)
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


def jobs(**settings: object) -> Any:
    return [
        (overrides, {**resolved, "dry_run": False, "sweep": {**resolved["sweep"], **settings}})
        for overrides, resolved in JOBS
    ]


def complete(name: str) -> None:
    for overrides, _ in JOBS:
        Sweep(name).record(varied(overrides, ["loss.beta"]), state="complete")


def test_a_sweep_is_named_after_its_axes_and_what_its_jobs_depend_on() -> None:
    names = []
    for typed in (jobs(), jobs(), jobs(objective="eval.accuracy"), jobs()[:1]):
        with sweeping(["-m"], ["loss.beta=0.1,0.2"], ["loss.beta"], typed) as more:
            flag, override = more
            assert flag == "-m"
            names.append(override.partition("=")[2])
            for overrides, _ in typed:
                Sweep(names[-1]).record(varied(overrides, ["loss.beta"]), state="complete")
    assert names[0].startswith("loss.beta-")
    assert names[0] == names[1] == names[2] != names[3]


def test_a_name_belongs_to_one_sweep() -> None:
    with sweeping([], [], ["loss.beta"], jobs(name="mine")):
        complete("mine")
    with (
        pytest.raises(
            Refusal, match=r"sweep.name must be new or that of this sweep \(\w{8}\), got mine, which is sweep"
        ),
        sweeping([], [], ["loss.beta"], jobs(name="mine")[:1]),
    ):
        pass


def test_a_sweep_is_started_once_at_a_time() -> None:
    with sweeping([], [], ["loss.beta"], jobs(name="mine")):
        with (
            pytest.raises(Refusal, match=r"sweep must not be under way elsewhere, got sweeps/mine; wait for it"),
            sweeping([], [], ["loss.beta"], jobs(name="mine")),
        ):
            pass
        complete("mine")


def test_jobs_that_were_not_reached_are_named() -> None:
    with (
        pytest.raises(RunFailed, match=r"1 of 2 jobs did not complete.*\n  loss.beta=0.2: not_run"),
        sweeping([], [], ["loss.beta"], jobs(name="mine")),
    ):
        Sweep("mine").record(["loss.beta=0.1"], state="complete")


def test_nothing_is_kept_of_a_sweep_that_trains_nothing() -> None:
    looked = [(overrides, {**resolved, "dry_run": True}) for overrides, resolved in jobs()]
    with sweeping(["-m"], [], ["loss.beta"], looked) as more:
        flag, elsewhere = more
        assert flag == "-m"
        assert Path(elsewhere.removeprefix("hydra.sweep.dir=")).is_dir()
    assert not Path("sweeps").exists()
    with sweeping(["loss.beta=0.1"], [], [], []) as more:
        assert more == ["loss.beta=0.1"]


def test_only_what_varies_names_a_job() -> None:
    assert varied(["++loss.beta=0.1", "seed=3", "loss=ipo"], ["loss.beta", "loss"]) == ("loss.beta=0.1", "loss=ipo")


@pytest.mark.parametrize(
    ("visible", "names"), [("0,1", ["0", "1"]), ("GPU-3ab, GPU-4cd", ["GPU-3ab", "GPU-4cd"]), ("", [])]
)
def test_devices_are_those_that_the_process_may_use(
    visible: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.devices() == names


def test_two_jobs_hold_two_devices_and_a_third_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    third = "from preftune.runs.slots import device_slot\nwith device_slot() as device: print(device, flush=True)"
    with slots.device_slot() as first:
        with slots.device_slot() as second:
            assert (first, second) == ("0", "1")
            waiting = subprocess.Popen([sys.executable, "-c", third], stdout=subprocess.PIPE, text=True)
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(3)
        printed, _ = waiting.communicate(timeout=30)
    assert printed == "1\n"


def test_slurm_gives_a_job_its_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with slots.device_slot() as device:
        assert device is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_optuna_is_told_where_to_go_on_and_the_users_settings_stay(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    assert complete_trials(file) == 0
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE trials (state TEXT)")
        database.executemany("INSERT INTO trials VALUES (?)", [("COMPLETE",), ("FAIL",), ("COMPLETE",), ("RUNNING",)])
    seeds = ["hydra.sweeper.sampler.seed=7", "seed=1"]
    found = search_overrides(tmp_path, ["hydra.sweeper.n_trials=5", "hydra.sweeper.direction=minimize", *seeds])
    assert "hydra.sweeper.n_trials=3" in found
    assert "hydra.sweeper.direction=minimize" in found
    assert "hydra.sweeper.sampler.seed=9" in found
    assert f"hydra.sweeper.storage=sqlite:///{file}" in found
    assert "hydra.sweeper.n_trials=0" in search_overrides(tmp_path, ["hydra.sweeper.n_trials=1"])
