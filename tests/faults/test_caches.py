"""Caches under kill -9 at every file operation, harmed files, two writers, and a directory that goes in between."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from preftune import caches, seals
from preftune.caches import cache_directory, found, made_once, remove, verified
from preftune.refusals import Refusal
from preftune.training.reference_store import ReferenceStore
from tests.forked import code_of, forked
from tests.test_training_reference_store import fill, holds, rows

FILES = {"texts": b"a text " * 3000, "numbers": bytes(range(256)) * 40}
AUDITED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.listdir", "fcntl.flock"}


def write(directory: Path, files: dict[str, bytes] = FILES) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)


def whole(directory: Path) -> bool:
    return {name: (directory / name).read_bytes() for name in FILES} == FILES


def refuse_to_make(directory: Path) -> None:
    pytest.fail(f"{directory} was made again")


def killed_at(place: int, below: Path, work: Callable[[], object]) -> int:
    """Do `work` in a process that is killed before its file operation number `place` below a directory."""

    def go() -> None:
        left = place
        fsync = os.fsync

        def count() -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        def look(event: str, arguments: tuple[Any, ...]) -> None:
            if event in AUDITED and (event == "fcntl.flock" or str(arguments[0]).startswith(str(below))):
                count()

        def synced(descriptor: int) -> None:
            count()
            fsync(descriptor)

        os.fsync = synced
        sys.addaudithook(look)
        work()

    return code_of(forked(go))


def kills(below: Path, work: Callable[[], object], after: Callable[[int], None]) -> int:
    """Kill `work` at each of its file operations in turn, `after` each time; return how many they are."""
    for place in range(500):
        code = killed_at(place, below, work)
        after(place)
        if code != -signal.SIGKILL:
            assert code == 0
            return place
    raise AssertionError("work must end within 500 file operations")


@pytest.mark.parametrize("start", ["nothing", "unsound", "afresh"])
def test_an_entry_whose_maker_is_killed_at_any_file_operation_is_whole_or_made_again(tmp_path, start):
    def work() -> None:
        made_once(tmp_path / "cache" / "kept", write, afresh=start == "afresh")

    def prepare() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        if start != "nothing":
            code_of(
                forked(lambda: made_once(tmp_path / "cache" / "kept", partial(write, files={"texts": b"of before"})))
            )
        if start == "unsound":
            (tmp_path / "cache" / "kept" / "texts").write_bytes(b"of another")

    def after(place: int) -> None:
        kept = tmp_path / "cache" / "kept"
        old = (kept / "texts").is_file() and (kept / "texts").read_bytes() == b"of before"
        if code_of(forked(lambda: os._exit(not found(kept)))) == 0 and not old:
            assert whole(kept), f"killed at {place}"
        assert code_of(forked(lambda: made_once(kept, write, afresh=old))) == 0
        assert whole(kept), f"killed at {place}"
        assert sorted(path.name for path in kept.parent.iterdir()) == ["kept", "kept.lock"], f"killed at {place}"
        prepare()

    prepare()
    assert kills(tmp_path / "cache", work, after) > 15


def test_a_reference_whose_maker_is_killed_at_any_file_operation_keeps_what_it_had(tmp_path):
    table = rows(20)
    place_of = tmp_path / "cache" / "key"

    def work() -> None:
        store = ReferenceStore(place_of)
        with store.lock():
            fill(store, table)

    def prepare() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        code_of(forked(lambda: fill(ReferenceStore(place_of), table.select(range(12)))))

    def read_again() -> None:
        store = ReferenceStore(place_of)
        assert len(store) in (12, 20)
        with store.lock():
            fill(store, table)
        assert holds(store, table)
        assert not list(place_of.glob("*.partial"))

    def after(place: int) -> None:
        assert code_of(forked(read_again)) == 0, f"killed at {place}"
        prepare()

    prepare()
    assert kills(tmp_path / "cache", work, after) > 8


@pytest.mark.parametrize("limit", [0, 1, 100, 5000, 10_239, 10_240, 15_000, 20_999, 21_000, 30_000])
def test_a_file_limit_costs_the_new_entry_and_no_other(tmp_path, limit):
    made_once(tmp_path / "earlier", write)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            made_once(tmp_path / "kept", write)
        except OSError as error:
            os._exit(9 if error.errno in caches.FULL else 8)

    code = code_of(forked(work))
    assert code == (0 if limit >= 21_000 else 9)
    assert verified(tmp_path / "earlier")
    left = {path.name for path in tmp_path.iterdir()} - {"earlier", "earlier.lock", "kept.lock"}
    assert left == ({"kept"} if code == 0 else set())
    assert whole(made_once(tmp_path / "kept", write))


@pytest.mark.parametrize("limit", [0, 1, 16, 100, 400, 700, 1000, 1200, 1400, 100_000])
def test_a_file_limit_costs_the_new_shard_and_no_other(tmp_path, limit):
    table = rows(20)
    fill(ReferenceStore(tmp_path / "key"), table.select(range(2)))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            fill(ReferenceStore(tmp_path / "key"), table)
        except OSError as error:
            os._exit(9 if error.errno in caches.FULL else 8)

    assert code_of(forked(work)) == (0 if limit > 2000 else 9)
    assert {file.suffix for file in (tmp_path / "key").iterdir()} == {".safetensors"}
    store = ReferenceStore(tmp_path / "key")
    assert len(store) == (20 if limit > 2000 else 2)
    fill(store, table)
    assert holds(store, table)


@pytest.mark.parametrize("gone", ["cache", "cache/kind", "cache/kind/kept", "its part"])
def test_an_entry_whose_place_is_removed_while_it_is_made_is_made_again(tmp_path, gone):
    kept, times = tmp_path / "cache" / "kind" / "kept", []

    def make(directory: Path) -> None:
        write(directory)
        times.append(directory)
        if len(times) == 1:
            shutil.rmtree(directory if gone == "its part" else tmp_path / gone, ignore_errors=True)

    assert whole(made_once(kept, make))
    assert len(times) == (1 if gone == "cache/kind/kept" else 2)
    assert verified(kept)


def test_what_fails_for_want_of_a_file_of_its_own_fails_once(tmp_path):
    times = []

    def make(directory: Path) -> None:
        times.append(directory)
        (tmp_path / "input").read_bytes()

    with pytest.raises(FileNotFoundError, match="input"):
        made_once(tmp_path / "cache" / "kept", make)
    assert len(times) == 1


def test_a_reference_whose_directory_is_removed_between_two_shards_goes_on(tmp_path):
    table = rows(30)
    store = ReferenceStore(tmp_path / "cache" / "key")
    with store.lock():
        fill(store, table.select(range(10)))
        shutil.rmtree(tmp_path / "cache")
        fill(store, table)
    assert holds(store, table)
    assert len(ReferenceStore(tmp_path / "cache" / "key")) == 20


def test_a_reference_whose_directory_is_removed_while_a_shard_is_written_goes_on(tmp_path, monkeypatch):
    store, table, synced = ReferenceStore(tmp_path / "cache" / "key"), rows(5), os.fsync

    def remove_first(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", synced)
        shutil.rmtree(tmp_path / "cache")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", remove_first)
    fill(store, table)
    assert holds(ReferenceStore(tmp_path / "cache" / "key"), table)


def test_a_reference_whose_directory_is_removed_before_its_lock_goes_on(tmp_path):
    store, table = ReferenceStore(tmp_path / "cache" / "key"), rows(5)
    shutil.rmtree(tmp_path / "cache")
    with store.lock():
        fill(store, table)
    assert holds(store, table)


def test_two_makers_of_whom_one_lost_its_lock_leave_one_whole_entry(tmp_path):
    def first_made(directory: Path) -> None:
        write(directory)
        time.sleep(0.5)

    def second_made(directory: Path) -> None:
        (directory / "texts").write_bytes(b"half")
        time.sleep(1)
        write(directory)

    kept = tmp_path / "cache" / "kept"
    fork = multiprocessing.get_context("fork")
    first = fork.Process(target=made_once, args=(kept, first_made))
    first.start()
    while not list(kept.parent.glob("*.partial/numbers")):
        time.sleep(0.01)
    (kept.parent / "kept.lock").unlink()
    second = fork.Process(target=made_once, args=(kept, second_made))
    second.start()
    for process in (first, second):
        process.join(timeout=60)
    assert [first.exitcode, second.exitcode] == [0, 0]
    assert whole(kept)
    assert verified(kept)
    assert sorted(path.name for path in kept.parent.iterdir()) == ["kept", "kept.lock"]


def test_an_entry_that_came_out_as_it_was_stays_in_its_place_for_who_reads_it(tmp_path):
    made_once(tmp_path / "kept", write)
    before = (tmp_path / "kept").stat().st_ino
    made_once(tmp_path / "kept", write, afresh=True)
    assert (tmp_path / "kept").stat().st_ino == before
    made_once(tmp_path / "kept", partial(write, files={"texts": b"other"}), afresh=True)
    assert (tmp_path / "kept" / "texts").read_bytes() == b"other"


@pytest.mark.parametrize("harm", ["a bit", "a seal of nothing", "a seal of a list", "a directory for a file"])
def test_a_harmed_entry_is_not_found(tmp_path, harm):
    made_once(tmp_path / "kept", write)
    if harm == "a bit":
        raw = bytearray(FILES["texts"])
        raw[12_345] ^= 1
        (tmp_path / "kept" / "texts").write_bytes(raw)
    elif harm == "a directory for a file":
        (tmp_path / "kept" / "texts").unlink()
        (tmp_path / "kept" / "texts").mkdir()
    else:
        (tmp_path / "kept" / "seal.json").write_text("null" if harm == "a seal of nothing" else '{"files": [1]}')
    assert not found(tmp_path / "kept")
    assert whole(made_once(tmp_path / "kept", write))


def test_a_bit_in_the_middle_of_a_large_file_is_found_by_reading_all(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "_LARGE", 1)
    monkeypatch.setattr(seals, "_SAMPLE", 16)
    made_once(tmp_path / "kept", write)
    raw = bytearray(FILES["texts"])
    raw[5000] ^= 1
    (tmp_path / "kept" / "texts").write_bytes(raw)
    assert found(tmp_path / "kept")
    assert not verified(tmp_path / "kept")


@pytest.mark.parametrize("afterwards", ["held", "let go"])
def test_an_entry_is_not_removed_while_another_process_uses_it(tmp_path, afterwards):
    made_once(tmp_path / "kept", write)
    caches.let_go(tmp_path / "kept")
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()

    def use() -> None:
        made_once(tmp_path / "kept", refuse_to_make)
        ready.set()
        done.wait(60)

    user = fork.Process(target=use)
    user.start()
    assert ready.wait(60)
    if afterwards == "let go":
        done.set()
        user.join()
    assert remove(tmp_path / "kept") is (afterwards == "let go")
    assert (tmp_path / "kept").exists() is (afterwards == "held")
    done.set()
    user.join()


def test_a_clock_that_jumps_back_changes_nothing_of_what_is_found(tmp_path):
    made_once(tmp_path / "kept", write)
    for file in (tmp_path / "kept").iterdir():
        os.utime(file, (4e9, 4e9))
    os.utime(tmp_path / "kept", (4e9, 4e9))
    assert whole(made_once(tmp_path / "kept", refuse_to_make))


@pytest.mark.parametrize("root", ["a file", "below a file"])
def test_a_cache_that_is_no_directory_is_refused_by_its_name(tmp_path, monkeypatch, root):
    (tmp_path / "file").write_text("not a directory")
    place = tmp_path / "file" if root == "a file" else tmp_path / "file" / "cache"
    monkeypatch.setenv("PREFTUNE_CACHE", str(place))
    with pytest.raises(Refusal) as refusal:
        cache_directory("pairs")
    assert str(refusal.value).startswith(f"PREFTUNE_CACHE must name a directory that can be written, got {place}: ")


def test_a_cache_that_cannot_be_written_gives_what_it_has_and_refuses_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    made_once(cache_directory("pairs") / "kept", write)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system", "other.lock")

    monkeypatch.setattr(caches.FileLock, "acquire", denied)
    monkeypatch.setattr(os, "utime", denied)
    assert whole(made_once(cache_directory("pairs") / "kept", refuse_to_make))
    with pytest.raises(Refusal, match=r"PREFTUNE_CACHE must name .* got .*/cache: Read-only file system \(other\.lock"):
        made_once(cache_directory("pairs") / "other", write)


def test_a_seal_says_what_an_entry_was_made_from(tmp_path):
    made_once(tmp_path / "kept", write, of="rows.jsonl")
    assert json.loads((tmp_path / "kept" / "seal.json").read_text())["of"] == "rows.jsonl"
