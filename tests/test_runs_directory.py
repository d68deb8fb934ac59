"""The run directory: its files, its lock, its ends, and what it refuses."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from preftune.refusals import Interrupted, Refusal
from preftune.runs.directory import RunDirectory
from preftune.runs.lock import hold, sign
from tests import stock

IDENTITY = "1" * 64
OTHER = "2" * 64
CONFIGURATION = {"seed": 0, "train": {"learning_rate": 1e-5}}


def read(path: Path) -> dict[str, object]:
    """Read JSON as strictly as any reader may: NaN is not a number there."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert isinstance(value, dict)
    return value


def finished(path: Path, identity: str = IDENTITY) -> None:
    """Leave a complete run at `path`."""
    with RunDirectory.open(path, identity) as directory:
        directory.start(CONFIGURATION, {})
        with directory.running():
            directory.progress(3, 3)
            directory.log({"loss": 0.5}, step=3)
            directory.write_results({"loss_last": 0.5}, [], {})


def test_a_run_leaves_the_files_of_the_contract(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "runs" / "a", IDENTITY) as directory:
        directory.start(CONFIGURATION, {"model": {"id": "x", "revision": "main", "commit": None}})
        with directory.running():
            directory.write_inputs({"data_fingerprint": "f", "template_hash": "t"}, stock.pair_report())
            directory.log({"loss": 0.6931}, step=1)
            directory.log({"loss": 0.5, "eval_loss": 0.6}, step=2)
            directory.progress(2, 2)
            directory.write_results({"steps": 2}, [{"prompt": "p", "policy": "é"}], {})
    path = directory.path
    assert sorted(entry.name for entry in path.iterdir() if entry.name != ".lock") == [
        "config.yaml",
        "data.html",
        "data.json",
        "ledger.json",
        "manifest.json",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
        "status.json",
        "summary.json",
    ]
    assert yaml.safe_load((path / "config.yaml").read_text()) == CONFIGURATION
    assert [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "loss": 0.6931},
        {"step": 2, "loss": 0.5, "eval_loss": 0.6},
    ]
    assert json.loads((path / "samples.jsonl").read_text(encoding="utf-8")) == {"prompt": "p", "policy": "é"}
    manifest = read(path / "manifest.json")
    assert manifest["identity"] == IDENTITY
    assert manifest["model"] == {"id": "x", "revision": "main", "commit": None}
    assert (manifest["data_fingerprint"], manifest["template_hash"]) == ("f", "t")
    versions = manifest["versions"]
    assert isinstance(versions, dict)
    assert versions["trl"] == metadata.version("trl")
    assert len(versions) == 8


def test_status_is_complete_at_the_end_and_running_until_then(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        directory.start(CONFIGURATION, {})
        with directory.running():
            directory.progress(4, 9)
            status = read(tmp_path / "status.json")
            assert (status["state"], status["step"], status["max_steps"]) == ("running", 4, 9)
            assert status["ended"] is None
    status = read(tmp_path / "status.json")
    assert (status["state"], status["reason"]) == ("complete", None)
    assert str(status["started"]).endswith("+00:00")
    assert str(status["ended"]).endswith("+00:00")
    assert str(status["ended"]) >= str(status["started"])


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("loss is nan"), "failed", "ValueError: loss is nan"),
        (KeyboardInterrupt(), "preempted", "stopped by Ctrl-C"),
        (Interrupted("SIGTERM"), "preempted", "stopped by SIGTERM"),
        (SystemExit(1), "failed", "SystemExit: 1"),
    ],
)
def test_an_exception_is_the_reason_in_the_status_and_goes_on(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        directory.start(CONFIGURATION, {})
        directory.progress(2, 7)
        with pytest.raises(type(error)), directory.running():
            raise error
    status = read(tmp_path / "status.json")
    assert (status["state"], status["reason"], status["step"]) == (state, reason, 2)
    assert status["exit_code"] == {"preempted": 143, "failed": 1}[state]


def test_a_complete_run_shows_its_summary(tmp_path: Path) -> None:
    finished(tmp_path)
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        previous = directory.previous()
    assert previous is not None
    assert previous.complete
    assert previous.summary == {"loss_last": 0.5}
    assert previous.sentence() == "this run is complete: 3 steps"


def test_an_unfinished_run_says_where_it_stopped_and_starts_over(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        assert directory.previous() is None
        directory.start(CONFIGURATION, {})
        directory.log({"loss": 0.7}, step=1)
        directory.write_results({}, [{"prompt": "old"}], {})
        directory.progress(12, 62)
        with pytest.raises(KeyboardInterrupt), directory.running():
            raise KeyboardInterrupt
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        previous = directory.previous()
        assert previous is not None
        assert not previous.complete
        assert previous.sentence() == (
            "an earlier start of this run was preempted at step 12 of 62 (stopped by Ctrl-C)"
        )
        directory.start(CONFIGURATION, {})
        directory.log({"loss": 0.6}, step=1)
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.6}\n'
        assert not (tmp_path / "samples.jsonl").exists()


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from preftune.runs.directory import RunDirectory\n"
        f"directory = RunDirectory.open(pathlib.Path(sys.argv[1]), {IDENTITY!r})\n"
        "directory.start({}, {}); directory.progress(5, 9); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        previous = directory.previous()
        assert previous is not None
        assert previous.sentence() == "an earlier start of this run was killed at step 5 of 9"


def test_numbers_that_json_does_not_know_are_written_as_strings(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        directory.start(CONFIGURATION, {})
        directory.log({"loss": float("nan"), "high": float("inf"), "low": float("-inf")}, step=1)
        directory.write_results({"eval": {"loss": float("nan"), "all": [1.0, float("inf")]}}, [], {})
    assert read(tmp_path / "metrics.jsonl") == {"step": 1, "loss": "nan", "high": "inf", "low": "-inf"}
    assert read(tmp_path / "summary.json") == {"eval": {"loss": "nan", "all": [1.0, "inf"]}}


def test_text_that_utf8_cannot_hold_is_written_as_json_escapes(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        directory.write_results({}, [{"policy": "a\ud800b"}], {})
    assert read(tmp_path / "samples.jsonl") == {"policy": "a\ud800b"}


def test_a_directory_in_use_is_refused_with_the_process_that_holds_it(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from preftune.runs.directory import RunDirectory\n"
        f"with RunDirectory.open(pathlib.Path(sys.argv[1]), {IDENTITY!r}):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(
        Refusal, match=rf"must not be in use, got {tmp_path}, which process {holder.pid} on .* holds; wait"
    ):
        RunDirectory.open(tmp_path, IDENTITY)
    holder.communicate(b"")
    RunDirectory.open(tmp_path, IDENTITY).close()


def signed(path: Path, **changes: object) -> FileLock:
    """Hold a directory as somebody would who signed so."""
    lock = hold(path)
    sign(path)
    holder = json.loads((path / ".holder.json").read_text())
    (path / ".holder.json").write_text(json.dumps({**holder, **changes}))
    return lock


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({}, f"process {os.getpid()} on {socket.gethostname()}"),
        ({"host": "elsewhere", "pid": 7}, "process 7 on elsewhere"),
        ({"began": "1"}, "another process"),  # the number was given again
        ({"pid": 2**22 + 1}, "another process"),  # no process has it: left of one that was killed
        ({"pid": "x"}, "another process"),
    ],
    ids=["this process", "elsewhere", "number given again", "killed", "no number"],
)
def test_who_holds_a_directory_is_told_from_who_was_killed_there(
    tmp_path: Path, changes: dict[str, object], who: str
) -> None:
    lock = signed(tmp_path, **changes)
    with pytest.raises(Refusal, match=f"which {who} holds; wait"):
        RunDirectory.open(tmp_path, IDENTITY)
    lock.release()
    RunDirectory.open(tmp_path, IDENTITY).close()  # what stands there holds nobody off


def test_a_start_that_waits_is_told_once_for_whom(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from preftune.runs.directory import RunDirectory\n"
        f"with RunDirectory.open(pathlib.Path(sys.argv[1]), {IDENTITY!r}):\n"
        "    print('held', flush=True); time.sleep(1.5)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    told: list[str] = []
    RunDirectory.open(tmp_path, IDENTITY, told.append).close()
    assert told == [f"process {holder.pid} on {socket.gethostname()}"]
    holder.communicate()


def test_a_run_that_ends_before_it_runs_does_not_seem_to_go_on(tmp_path: Path) -> None:
    for error, state, reason in (
        (KeyboardInterrupt(), "preempted", "stopped by Ctrl-C"),
        (Interrupted("SIGTERM"), "preempted", "stopped by SIGTERM"),
        (ValueError("no tracker"), "failed", "ValueError: no tracker"),
    ):
        with pytest.raises(type(error)), RunDirectory.open(tmp_path, IDENTITY) as directory:
            raise _begun(directory, error)
        status = read(tmp_path / "status.json")
        assert (status["state"], status["reason"]) == (state, reason)


def _begun(directory: RunDirectory, error: BaseException) -> BaseException:
    directory.start(CONFIGURATION, {})
    return error


def test_one_process_cannot_hold_a_directory_twice(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY), pytest.raises(Refusal, match="must not be in use"):
        RunDirectory.open(tmp_path, IDENTITY)


def test_a_directory_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(Refusal) as refusal:
        RunDirectory.open(tmp_path, OTHER)
    assert str(refusal.value) == (
        f"run directory must be empty or hold this run (22222222), got {tmp_path}, which holds run 11111111: "
        "another configuration or other data; set run.dir to another directory, or to null to name it after "
        "the run"
    )
    assert read(tmp_path / "summary.json") == {"loss_last": 0.5}
    RunDirectory.open(tmp_path, IDENTITY).close()  # the refused one has let go


def test_a_directory_that_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(Refusal) as refusal:
        RunDirectory.open(tmp_path, IDENTITY)
    assert str(refusal.value) == (
        f"run directory must be empty or hold a run (a manifest.json), got {tmp_path}, which holds "
        "thesis.tex; set run.dir to another directory"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_begins_while_its_directory_is_looked_at_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.iterdir

    def begun_meanwhile(path: Path) -> Iterator[Path]:
        monkeypatch.undo()
        with RunDirectory.open(tmp_path, IDENTITY) as other:
            other.start(CONFIGURATION, {})
        return look(path)

    monkeypatch.setattr(Path, "iterdir", begun_meanwhile)
    RunDirectory.open(tmp_path, IDENTITY).close()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match=r"must be a directory that can be written, got .*file: File exists"):
        RunDirectory.open(tmp_path / "file", IDENTITY)


def test_a_broken_manifest_is_refused_by_its_path(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "manifest.json").write_text('{"identity":')
    with pytest.raises(Refusal, match=r"manifest.json must hold JSON, got .* put it back, or remove it"):
        RunDirectory.open(tmp_path, IDENTITY)


def test_a_write_that_fails_leaves_the_older_file_whole(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, IDENTITY) as directory:
        directory.write_results({"steps": 1}, [], {})
        with pytest.raises(TypeError):
            directory.write_results({"steps": object()}, [], {})
        (tmp_path / ".summary.json.tmp").mkdir()
        with pytest.raises(OSError, match="Is a directory"):
            directory.write_results({"steps": 2}, [], {})
    assert read(tmp_path / "summary.json") == {"steps": 1}
