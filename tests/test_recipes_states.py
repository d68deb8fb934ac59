"""Runs of the toy driven into the states that the verdict names."""

from pathlib import Path

import pytest

from tests.test_recipes import Execute, execute, read  # noqa: F401  # a fixture is found by its name

SMALL = ("data.toy.pairs=64", "data.test_size=16", "train=smoke", "evaluate.prompts=2", "track=none")


def words(directory: Path) -> list[str]:
    return [state["word"] for state in read(directory / "summary.json")["verdicts"]]


def test_a_rate_that_is_too_high_collapses_the_policy(
    execute: Execute,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = execute(*SMALL, "train.max_steps=8", "train.learning_rate=0.3")
    assert read(directory / "summary.json")["verdict"]["word"] == "collapsed"
    assert "warning: collapsed at step 2: Both answers became unlikely" in " ".join(capsys.readouterr().out.split())


def test_a_tiny_beta_displaces_the_policy_and_the_guard_stops_it_there(execute: Execute) -> None:  # noqa: F811
    directory = execute(
        *SMALL, "train.max_steps=16", "loss.beta=0.001", "train.learning_rate=0.02", "guard.stop_on=[displaced]"
    )
    assert words(directory) == ["displaced"]
    summary = read(directory / "summary.json")
    assert summary["steps"] == 4
    assert summary["verdict"]["sentence"].endswith("Stopped at step 4 of 16 by guard.stop_on.")
    status = read(directory / "status.json")
    assert (status["state"], status["step"], status["max_steps"]) == ("complete", 4, 16)
    assert (directory / "adapter" / "adapter_model.safetensors").is_file()
