"""SIGTERM, SIGUSR1 and Ctrl-C in each stage of a small run, in a process of its own.

Each case is a forked child that says when it has come to its stage, and waits there for the signal.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preftune.evaluating.points import Points
from preftune.models import policy
from preftune.runs import directory, watching
from preftune.runs.exits import exits
from preftune.training import preparation
from preftune.training.trainer import PairTrainer
from recipes import run as recipe
from tests.forked import code_of, forked, wait_for
from tests.test_recipes import SMALL, read

ROOT = Path(__file__).parents[2]
STAGES: dict[str, tuple[Any, str]] = {
    "tracker": (watching, "start_tracker"),
    "data": (preparation, "prepare"),
    "reference": (PairTrainer, "keep_reference"),
    "evaluate": (Points, "measure_start"),
    "evaluate at the end": (Points, "measure_end"),
    "export": (policy, "save_policy"),
}
SENT = [(stage, signal.SIGTERM, "SIGTERM") for stage in STAGES]
SENT += [
    (stage, number, name)
    for number, name in ((signal.SIGUSR1, "SIGUSR1"), (signal.SIGINT, "Ctrl-C"))
    for stage in ("data", "export")
]
IN_TRAINING = [
    (signal.SIGTERM, "SIGTERM"),
    (signal.SIGUSR1, "SIGUSR1"),
    (signal.SIGUSR2, "SIGUSR2"),
    (signal.SIGINT, "Ctrl-C"),
]


def resolved(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run: Any = OmegaConf.to_container(compose("run", [*SMALL, "evaluate.points=1", *overrides]), resolve=True)
    return dict(run)


def start(run: dict[str, Any], stage: tuple[Any, str]) -> int:
    """Start a run that comes to a function of a stage, touches `reached`, and waits there for a minute."""
    place, name = stage
    before: Callable[..., object] = getattr(place, name)

    def stalled(*arguments: Any, **keywords: Any) -> object:
        Path("reached").touch()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)
        return before(*arguments, **keywords)

    def go() -> None:
        setattr(place, name, stalled)
        with exits():
            recipe.run(run)

    return forked(go, Path("output"))


@pytest.mark.parametrize(("stage", "number", "name"), SENT, ids=[f"{name} in {stage}" for stage, _, name in SENT])
def test_outside_training_a_signal_ends_the_run_at_once(
    stage: str, number: signal.Signals, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = start(resolved(), STAGES[stage])
    wait_for(Path("reached").exists)
    sent = time.monotonic()
    os.kill(child, number)
    assert code_of(child) == 143, Path("output").read_text()
    assert time.monotonic() - sent < 20
    (path,) = tmp_path.glob("runs/*")
    status = read(path / "status.json")
    assert (status["state"], status["reason"], status["exit_code"]) == ("preempted", f"stopped by {name}", 143)
    assert status["step"] == (3 if stage in ("evaluate at the end", "export") else 0)
    assert not (path / "adapter").exists()
    assert not (path / "summary.json").exists()
    printed = Path("output").read_text()
    assert f"stopped by {name}" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(("number", "name"), IN_TRAINING)
def test_in_training_a_signal_ends_the_run_at_a_step_that_its_status_names(
    number: signal.Signals, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = resolved("train.max_steps=100000")
    run["run"]["dir"] = "run"

    def go() -> None:
        with exits():
            recipe.run(run)

    child = forked(go, Path("output"))
    wait_for(lambda: Path("run/status.json").exists() and read(Path("run/status.json"))["step"] >= 2)
    os.kill(child, number)
    assert code_of(child) == 143, Path("output").read_text()
    status = read(Path("run/status.json"))
    assert (status["state"], status["reason"]) == ("preempted", f"stopped by {name}")
    assert not Path("run/adapter").exists()
    printed = Path("output").read_text()
    assert f"stopped by {name} at step {status['step']} of 100000; see run" in printed
    assert "Traceback" not in printed


def test_in_a_step_that_does_not_end_a_second_ctrl_c_ends_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = start(resolved("run.dir=run"), (PairTrainer, "training_step"))
    wait_for(Path("reached").exists)
    os.kill(child, signal.SIGINT)
    time.sleep(1)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it would finish its step
    sent = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert code_of(child) == 143, Path("output").read_text()
    assert time.monotonic() - sent < 20
    status = read(Path("run/status.json"))
    assert (status["state"], status["reason"]) == ("preempted", "stopped by Ctrl-C")
    assert not list(Path("run").glob("checkpoints/*"))
    assert "Traceback" not in Path("output").read_text()


def test_once_its_results_are_written_a_run_is_complete_whatever_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def stopped_late(path: Path) -> str:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
        return "a page"

    def go() -> None:
        directory.run_page = stopped_late  # type: ignore[assignment]
        with exits():
            recipe.run(resolved("run.dir=run"))

    assert code_of(forked(go, Path("output"))) == 0, Path("output").read_text()
    assert read(Path("run/status.json"))["state"] == "complete"
    assert Path("run/report.html").read_text() == "a page"
