"""The recipe started again after a kill: what it keeps, what it says, what it comes to."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from preftune.refusals import Refusal
from preftune.runs.directory import RunDirectory
from tests.forked import code_of, forked
from tests.logged import events
from tests.resuming import assert_same
from tests.spoilt import flip
from tests.test_recipes import SMALL, Execute, execute, read  # noqa: F401  a fixture

TIMED = ("seconds", "pairs_per_second", "tokens_per_second", "peak_memory_bytes", "verified", "reference_computed")


def killed_at(step: int, execute: Execute, *overrides: str) -> None:  # noqa: F811
    """Start a run in a child that is killed as it records `step`."""

    def act() -> None:
        record = RunDirectory.progress

        def progress(self: RunDirectory, done: int, steps: int) -> None:
            record(self, done, steps)
            if done == step:
                os._exit(9)

        RunDirectory.progress = progress  # type: ignore[method-assign]
        execute(*overrides)

    assert code_of(forked(act)) == 9


def comparable(directory: Path) -> dict[str, Any]:
    summary = read(directory / "summary.json")
    return {name: value for name, value in summary.items() if name not in (*TIMED, "resumed")}


def test_a_run_that_was_killed_goes_on_and_leaves_what_an_undisturbed_one_does(
    execute: Execute,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    execute(*SMALL, "run.dir=whole")
    killed_at(3, execute, *SMALL, "run.dir=parts")
    assert read(Path("parts/status.json"))["state"] == "running"
    (Path("parts") / "traceback.txt").touch()
    capsys.readouterr()
    execute(*SMALL, "run.dir=parts")
    printed = capsys.readouterr().out
    whole, parts = Path("whole"), Path("parts")
    status, summary = read(parts / "status.json"), read(parts / "summary.json")
    (step,) = status["resumed"]
    assert step in (1, 2)
    assert f"going on from step {step} of 3 (checkpoints/step-{step})" in printed
    assert (status["state"], status["step"], summary["resumed"]) == ("complete", 3, [step])
    assert "resumed" not in read(whole / "summary.json")
    assert {path.name for path in whole.iterdir()} == {path.name for path in parts.iterdir()}
    assert {path.name for path in (parts / "checkpoints").iterdir()} == {"step-2", "step-3"}
    assert_same(*(load_file(each / "adapter" / "adapter_model.safetensors") for each in (whole, parts)))
    assert events(whole) == events(parts)
    assert comparable(whole) == comparable(parts)
    assert (whole / "samples.jsonl").read_bytes() == (parts / "samples.jsonl").read_bytes()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(execute: Execute) -> None:  # noqa: F811
    killed_at(1, execute, *SMALL, "run.dir=parts")
    assert Path("parts/metrics.jsonl").stat().st_size > 0
    execute(*SMALL, "run.dir=parts")
    steps = [json.loads(line)["step"] for line in Path("parts/metrics.jsonl").read_text().splitlines()]
    assert steps.count(0) == 2  # one evaluation at the start, and its samples
    assert "resumed" not in read(Path("parts/summary.json"))


def test_a_complete_run_whose_adapter_was_harmed_says_so_and_writes_it_again(
    execute: Execute,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    execute(*SMALL, "run.dir=run")
    run = Path("run")
    adapter = run / "adapter" / "adapter_model.safetensors"
    whole, samples, logged = adapter.read_bytes(), (run / "samples.jsonl").read_bytes(), events(run)
    flip(adapter)
    with pytest.raises(Refusal, match="is not as it was sealed; put it back, or"):
        execute(*SMALL, "run.dir=run")
    (run / "status.json").unlink()
    execute(*SMALL, "run.dir=run")
    assert "going on from step 3 of 3" in capsys.readouterr().out
    assert (adapter.read_bytes(), (run / "samples.jsonl").read_bytes(), events(run)) == (whole, samples, logged)
    execute(*SMALL, "run.dir=run")
    assert "this run is complete: 3 steps" in capsys.readouterr().out
