"""Sealed checkpoints: whole or absent, never below two, and never used where a file is not as it was written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from preftune.training.checkpoints import Checkpoints
from tests.spoilt import SPOILT

MINE, OTHER, EARLIER = "a" * 64, "b" * 64, "c" * 64


def fill(text: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        for name in ("weights.safetensors", "optimizer.pt"):
            (directory / name).write_text(f"{name} of {text}, and so on")

    return write


def checkpoints(directory: Path, identity: str = MINE, keep: int | None = 2) -> Checkpoints:
    return Checkpoints(
        directory / "checkpoints",
        [identity, EARLIER],
        keep,
        Console(record=True, width=300, file=open(os.devnull, "w")),
    )


def saved(directory: Path, *steps: int, identity: str = MINE, keep: int | None = 2) -> Checkpoints:
    made = checkpoints(directory, identity, keep)
    for step in steps:
        made.save(step, 40, fill(f"{identity} {step}"))
    made.wait()
    return made


def said(made: Checkpoints) -> str:
    return made.console.export_text().strip()


def kept(directory: Path) -> set[str]:
    return {path.name for path in (directory / "checkpoints").iterdir()}


def test_the_newest_that_is_sound_is_gone_on_from_and_said(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    again = checkpoints(tmp_path)
    found = again.newest()
    assert found is not None
    assert (found.path, found.step, found.steps) == (tmp_path / "checkpoints" / "step-20", 20, 40)
    assert again.going_on == found
    assert said(again) == "going on from step 20 of 40 (checkpoints/step-20)"


def test_where_there_is_none_nothing_is_said(tmp_path: Path) -> None:
    made = checkpoints(tmp_path)
    assert made.newest() is None
    assert said(made) == ""


@pytest.mark.parametrize("keep", [2, 3, None])
def test_as_many_as_asked_for_are_kept_and_never_fewer_than_two(tmp_path: Path, keep: int | None) -> None:
    saved(tmp_path, 5, 10, 15, 100, keep=keep)
    assert kept(tmp_path) == {f"step-{step}" for step in [5, 10, 15, 100][-(keep or 4) :]}
    assert checkpoints(tmp_path, keep=1).keep == 2


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "manifest.json"])
@pytest.mark.parametrize("how", SPOILT)
def test_one_with_a_spoilt_file_is_set_aside_and_the_one_before_it_is_used(tmp_path: Path, name: str, how: str) -> None:
    saved(tmp_path, 10, 20)
    SPOILT[how](tmp_path / "checkpoints" / "step-20" / name)
    again = checkpoints(tmp_path)
    found = again.newest()
    assert found is not None
    assert found.step == 10
    reason = f"{name} {'is missing' if how == 'deleted' else 'is not as it was sealed'}"
    assert said(again) == f"going on from step 10 of 40 (checkpoints/step-10); step-20 was set aside: {reason}"
    assert kept(tmp_path) == {"step-10", "torn-step-20", "torn-step-20.txt"}
    assert (tmp_path / "checkpoints" / "torn-step-20.txt").read_text() == f"{reason}\n"


def test_where_none_is_sound_the_run_begins_anew(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    for step in (10, 20):
        (tmp_path / "checkpoints" / f"step-{step}" / "optimizer.pt").unlink()
    again = checkpoints(tmp_path)
    assert again.newest() is None
    assert said(again) == (
        "beginning anew, as no checkpoint is left; step-20 was set aside: optimizer.pt is missing; "
        "step-10 was set aside: optimizer.pt is missing"
    )


def test_a_file_that_was_not_sealed_with_it_spoils_it_and_one_of_the_file_system_does_not(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / "checkpoints" / "step-10" / ".nfs0001").touch()
    assert checkpoints(tmp_path).newest() is not None
    (tmp_path / "checkpoints" / "step-10" / "pytorch_model.bin").touch()
    again = checkpoints(tmp_path)
    assert again.newest() is None
    assert "pytorch_model.bin was not sealed with it" in said(again)


@pytest.mark.parametrize("name", ["optimizer.pt", "manifest.json", None])
def test_files_of_another_run_are_not_used(tmp_path: Path, name: str | None) -> None:
    saved(tmp_path / "mine", 10)
    saved(tmp_path / "other", 10, identity=OTHER)
    here, there = (tmp_path / run / "checkpoints" / "step-10" for run in ("mine", "other"))
    if name is None:
        shutil.rmtree(here)
        shutil.copytree(there, here)
    else:
        shutil.copy(there / name, here / name)
    again = checkpoints(tmp_path / "mine")
    assert again.newest() is None
    assert ("it is of another run, bbbbbbbb" in said(again)) == (name != "optimizer.pt")


def test_what_the_run_saved_before_an_allowed_change_is_used(tmp_path: Path) -> None:
    saved(tmp_path, 10, identity=EARLIER)
    assert checkpoints(tmp_path).newest() is not None


def test_a_checkpoint_under_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    shutil.copytree(tmp_path / "checkpoints" / "step-10", tmp_path / "checkpoints" / "step-90")
    found = checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 10


def test_what_fails_while_it_is_written_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    made = saved(tmp_path, 10)

    def fails(directory: Path) -> None:
        fill("half")(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made.save(20, 40, fails)
    assert kept(tmp_path) == {"step-10"}


def test_what_fails_while_it_is_sealed_is_raised_by_the_next_wait_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved(tmp_path, 10)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    made.save(20, 40, fill("20"))
    with pytest.raises(OSError, match="No space left"):
        made.wait()
    made.wait()
    assert kept(tmp_path) == {"step-10"}


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    made = saved(tmp_path, 10)
    made.save(10, 40, fill("later"))
    made.wait()
    assert "later" in (tmp_path / "checkpoints" / "step-10" / "optimizer.pt").read_text()
    assert checkpoints(tmp_path).newest() is not None


def test_a_torn_one_of_the_same_step_is_kept_beside_the_first(tmp_path: Path) -> None:
    for _ in range(3):
        saved(tmp_path, 10)
        (tmp_path / "checkpoints" / "step-10" / "optimizer.pt").unlink()
        assert checkpoints(tmp_path).newest() is None
    directories = {name for name in kept(tmp_path) if not name.endswith(".txt")}
    assert directories == {"torn-step-10", "torn-step-10-2", "torn-step-10-3"}
