"""Disks that are too small, full, or limited: said before training, or it costs the partial file and no other."""

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from preftune import space
from preftune.caches import FULL
from preftune.data.loading import load_pairs
from preftune.evaluating import points
from preftune.refusals import Refusal, RunFailed
from preftune.reporting import plan
from preftune.runs import files
from preftune.runs.exits import exits
from preftune.space import Need, bytes_of, failing_plainly, free, refuse_short
from tests import stock
from tests.forked import code_of, forked
from tests.test_recipes import SMALL, Execute, execute

__all__ = ["execute"]


def full(file: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", file)


def read(file: Path) -> Any:
    return json.loads(file.read_bytes())


def while_doing_else(error: Exception) -> None:
    try:
        raise error
    except (OSError, RuntimeError, ValueError) as cause:
        raise LookupError("while something else was done") from cause


def test_what_fits_is_not_refused(tmp_path):
    refuse_short([Need("adapter", tmp_path / "runs" / "a", free(tmp_path) // 2)])


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed_and_what_to_change(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free", lambda place: 3 << 30)
    needs = [Need("adapter", tmp_path / "runs" / "a", 1 << 30), Need("3 checkpoints", tmp_path / "runs" / "a", 5 << 30)]
    with pytest.raises(Refusal) as refusal:
        refuse_short(needs)
    assert str(refusal.value) == (
        f"the disk of {tmp_path}/runs/a must have 6.0 GiB free, got 3.0 GiB: 3 checkpoints 5.0 GiB, adapter 1.0 GiB; "
        "lower train.save_total_limit, set run.dir or PREFTUNE_CACHE to a larger disk, or make room with "
        "`python -m recipes.cache --prune`"
    )


def test_needs_of_one_file_system_are_added_up_and_those_of_two_are_not(tmp_path, monkeypatch):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system alone")
    monkeypatch.setattr(space, "free", lambda place: 3 << 30)
    refuse_short([Need("adapter", tmp_path, 2 << 30), Need("reference", other / "cache", 2 << 30)])
    with pytest.raises(Refusal, match=r"must have 4\.0 GiB free, got 3\.0 GiB: adapter 2\.0 GiB, reference 2\.0 GiB;"):
        refuse_short([Need("adapter", tmp_path, 2 << 30), Need("reference", tmp_path / "cache", 2 << 30)])


@pytest.mark.parametrize(
    "error",
    [
        full("runs/a/summary.json"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        ValueError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left" }'),
    ],
    ids=["disk", "quota", "torch", "safetensors"],
)
def test_no_room_is_said_in_a_sentence_with_what_is_free_and_what_the_run_needs(tmp_path, error):
    (tmp_path / "plan.json").write_text(json.dumps([["disk", "3 checkpoints 5.0 GiB, of 3.0 GiB free"]]))
    with pytest.raises(RunFailed) as failed, failing_plainly(tmp_path):
        while_doing_else(error)
    text = str(failed.value)
    reason = error.strerror.lower() if isinstance(error, OSError) else "no space left on device"
    assert text.startswith(f"there must be room for what the run writes, got {reason}")
    assert f"; free are {bytes_of(free(tmp_path))[:2]}" in text
    assert f" at {tmp_path}" in text
    assert "; needed are 3 checkpoints 5.0 GiB, of 3.0 GiB free. What was whole before is as it was." in text
    assert "summary.json" in text or error.args[0] != errno.ENOSPC


def test_another_failure_goes_on_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), failing_plainly(tmp_path):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(Refusal, match="as it was"), failing_plainly(tmp_path):
        raise Refusal("as it was") from full()


def test_a_cache_that_was_removed_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    said = r"/cache must stay while a run reads what is kept there, got .*No such file.*; start again"
    for opened in (Path.read_bytes, lambda file: pa.OSFile(str(file))):
        with pytest.raises(RunFailed, match=said), failing_plainly(tmp_path):
            opened(tmp_path / "cache" / "pairs" / "a")


def test_a_run_whose_cache_is_removed_while_it_runs_completes(execute: Execute, tmp_path, monkeypatch):
    shutil.copytree(Path(os.environ["PREFTUNE_CACHE"]) / "toy", tmp_path / "cache" / "toy")
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    measure = points.Points.measure_start

    def remove_first(self: points.Points) -> None:
        assert list((tmp_path / "cache" / "reference").glob("*/*.safetensors"))
        shutil.rmtree(tmp_path / "cache")
        measure(self)

    monkeypatch.setattr(points.Points, "measure_start", remove_first)
    assert read(execute(*SMALL) / "status.json")["state"] == "complete"


def test_a_command_on_a_full_disk_ends_with_a_sentence_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as ending, exits():
        raise full("report.html")
    assert ending.value.code == 1
    assert "got no space left on device for report.html; free are " in capsys.readouterr().err


@pytest.mark.parametrize("limit", [0, 1, 10, 63, 64, 65, 1000, 4095, 4096, 9000])
def test_a_file_limit_costs_the_new_file_and_not_the_old_one(tmp_path, limit):
    file = tmp_path / "summary.json"
    files.replace(file, b"old" * 10)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            files.replace(file, b"new" * 1365)
        except OSError as error:
            os._exit(9 if error.errno in FULL else 8)

    fits = limit >= 4095
    assert code_of(forked(work)) == (0 if fits else 9)
    assert file.read_bytes() == (b"new" * 1365 if fits else b"old" * 10)
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


def test_a_run_says_before_it_trains_that_there_is_no_room(execute: Execute, monkeypatch, tmp_path):
    monkeypatch.setattr(space, "free", lambda place: 1 << 20)
    with pytest.raises(RunFailed) as failed:
        execute(*SMALL)
    assert "must have " in str(failed.value)
    assert "3 checkpoints " in str(failed.value)
    assert "reference " in str(failed.value)
    (directory,) = (tmp_path / "runs").iterdir()
    assert read(directory / "status.json")["state"] == "failed"
    assert not (directory / "metrics.jsonl").exists()
    assert plan.free is not space.free


def test_rows_that_take_more_than_is_free_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    file = stock.write_pairs(tmp_path / "pairs.jsonl", stock.pairs(30))
    monkeypatch.setattr(space, "free", lambda place: file.stat().st_size - 1)
    with pytest.raises(Refusal, match=r"^the disk of .*/pairs/\w+ must have .* free, got .*: pairs of pairs\.jsonl "):
        load_pairs(stock.data_settings(file))
    monkeypatch.undo()
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    assert len(load_pairs(stock.data_settings(file)).train)


def test_a_plan_says_what_the_run_will_write(execute: Execute, tmp_path):
    directory = execute(*SMALL)
    planned = dict(read(directory / "plan.json"))["disk"]
    assert planned.startswith("3 checkpoints ")
    assert ", adapter " in planned
    assert ", of " in planned
    said = float(planned.partition(", adapter ")[2].split()[0]) * 2**20
    written = sum(file.stat().st_size for file in (directory / "adapter").iterdir())
    assert written / 2 < said < 20 * written


@pytest.mark.parametrize("limit", [20_000, 100_000])
def test_a_run_under_a_file_limit_fails_with_a_sentence_and_leaves_what_is_whole(
    execute: Execute, tmp_path: Path, limit: int
):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            execute(*SMALL)
        except RunFailed as failure:
            said = "there must be room for what the run writes, got file too large ("
            os._exit(9 if str(failure).startswith(said) and "`ulimit -f`" in str(failure) else 8)

    assert code_of(forked(work)) == 9
    (directory,) = (tmp_path / "runs").iterdir()
    assert not [file.name for file in directory.rglob("*") if file.name.endswith(".tmp")]
    for file in directory.glob("*.json"):
        assert read(file)
    assert read(directory / "status.json")["state"] == "failed"
