"""The same run, and the same sweep, started many times at once: one does it."""

import os
from pathlib import Path
from typing import Any

import pytest

from preftune.runs.exits import exits
from preftune.runs.opening import open_run
from preftune.runs.sweep_record import Sweep
from preftune.runs.sweeps import sweeping
from tests.forked import code_of, forked, wait_for

STARTS = 20


def run(sweep: str | None = None) -> dict[str, Any]:
    named: dict[str, Any] = {"name": "x", "path": None, "chat_template": None}
    return {
        "model": named,
        "loss": named,
        "data": named,
        "adapter": {},
        "run": {"dir": "run"},
        "sweep": {"name": sweep},
    }


def others_have_said(words: str) -> None:
    """Wait until all but this process have said so."""
    wait_for(lambda: Path("output").read_text().count(words) == STARTS - 1)


def train(resolved: dict[str, Any], refusal: str) -> None:
    """Stand in for a training that takes until the others are kept from it; it writes a line."""
    with exits(), open_run(resolved, scratch=False) as directory:
        if (previous := directory.previous()) and previous.complete:
            return
        directory.start(resolved, {})
        with directory.running():
            with Path("trained").open("a") as file:
                file.write(f"{os.getpid()}\n")
            others_have_said(refusal)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def at_once(act: Any) -> list[int]:
    """Do `act` in many processes that begin together, and return their exit codes."""

    def go() -> None:
        wait_for(Path("go").exists)
        act()

    children = [forked(go, Path("output")) for _ in range(STARTS)]
    Path("go").touch()
    return [code_of(child) for child in children]


def test_of_many_starts_of_a_run_one_trains_and_the_others_are_refused_with_who_does() -> None:
    codes = at_once(lambda: train(run(), "must not be in use"))
    (pid,) = Path("trained").read_text().split()
    assert sorted(codes) == [0] + [2] * (STARTS - 1)
    refused = [line for line in Path("output").read_text().splitlines() if line]
    assert len(refused) == STARTS - 1
    assert all(line.startswith("run directory must not be in use, got run, which ") for line in refused)
    assert any(f"which process {pid} on " in line for line in refused)


def test_of_many_jobs_that_are_the_same_run_one_trains_and_the_others_wait_for_it() -> None:
    assert at_once(lambda: train(run("betas"), "run is in use by ")) == [0] * STARTS
    assert len(Path("trained").read_text().split()) == 1


def test_of_many_starts_of_a_sweep_one_begins_and_the_others_are_refused() -> None:
    resolved = {**run("betas"), "dry_run": False}
    resolved["sweep"] |= {"objective": "auto"}

    def start() -> None:
        with exits(), sweeping([], [], ["loss.beta"], [(["loss.beta=0.1"], resolved)]):
            Sweep("betas").record(["loss.beta=0.1"], state="complete")
            others_have_said("sweep must not be under way elsewhere, got sweeps/betas")

    assert sorted(at_once(start)) == [0] + [2] * (STARTS - 1)
