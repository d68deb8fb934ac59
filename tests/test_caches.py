"""What is kept is whole or made afresh."""

import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest

from preftune.caches import key_of, made_once


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
    assert (tmp_path / "kept" / "whole").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.lock"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_text("hal"),
        lambda file: file.write_text("whole!"),
        lambda file: file.write_text("whold"),
        lambda file: file.unlink(),
        lambda file: (file.parent / "seal.json").write_text('{"a": ['),
    ],
    ids=["cut", "grown", "changed", "gone", "torn seal"],
)
def test_what_was_harmed_on_the_disk_is_made_again(tmp_path, harm):
    made_once(tmp_path / "kept", lambda directory: (directory / "a").write_text("whole"))
    harm(tmp_path / "kept" / "a")
    made_once(tmp_path / "kept", lambda directory: (directory / "a").write_text("again"))
    assert (tmp_path / "kept" / "a").read_text() == "again"


def test_what_is_sound_is_not_made_again(tmp_path):
    made_once(tmp_path / "kept", lambda directory: (directory / "a").write_text("whole"))
    made_once(tmp_path / "kept", lambda directory: (directory / "a").write_text("again"))
    assert (tmp_path / "kept" / "a").read_text() == "whole"


def test_a_key_depends_on_values_and_not_on_the_order_of_names():
    assert key_of({"a": 1, "b": None}) == key_of({"b": None, "a": 1}) != key_of({"a": 2, "b": None})
