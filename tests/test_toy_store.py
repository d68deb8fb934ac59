"""A directory that is made once, whole or not at all."""

import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest

from preftune.toy.store import made_once


def _slow(directory: Path, made: Path) -> None:
    with made.open("a") as lines:
        lines.write("made\n")
    (directory / "a").write_text("half")
    time.sleep(0.3)
    (directory / "a").write_text("whole")


def _ask(directory: Path, made: Path) -> None:
    made_once(directory, partial(_slow, made=made))
    (directory / "a").read_text()


def test_two_processes_make_it_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_ask, args=(tmp_path / "kept", tmp_path / "made")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "made").read_text() == "made\n"
    assert (tmp_path / "kept" / "a").read_text() == "whole"


def test_what_fails_half_way_leaves_nothing_to_load(tmp_path):
    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "kept", fail)
    assert not (tmp_path / "kept").exists()
    made_once(tmp_path / "kept", lambda directory: (directory / "whole").touch())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["whole"]
