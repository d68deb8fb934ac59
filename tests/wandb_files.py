"""Offline runs of W&B, made on a machine without account, and read back from their files."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from preftune.runs.settings import TrackSettings
from preftune.runs.trackers import Tracker
from preftune.runs.watching import start_tracker

WANDB = TrackSettings(name="wandb", project="preftune", tags=["beta"])
CONFIGURATION = {"loss": {"name": "sigmoid", "beta": 0.1}, "seed": 0}
NAME = "tiny-toy-sigmoid-0123abcd"


def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a test as a machine without W&B account, settings or session, in an empty directory."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


def start(tmp_path: Path, settings: TrackSettings = WANDB, **how: Any) -> Tracker:
    """Track a run whose directory is `run`."""
    return start_tracker(settings, tmp_path / "run", NAME, CONFIGURATION, **how)


def records(path: Path) -> Iterator[Record]:
    """Read a .wandb file: LevelDB's log format after a header of 7 bytes, a protobuf record in each entry."""
    content, place, entry = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(entry)
            entry = b""


def offline_runs(directory: Path) -> list[list[Record]]:
    """Return the records of each offline run in `directory`, in the order of their starts."""
    files = sorted((directory / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    runs = [list(records(file)) for file in files]
    assert all(any(record.HasField("exit") for record in run) for run in runs)
    return runs


def started(run: list[Record]) -> Any:
    """Return the record that says what run it is."""
    (found,) = [record.run for record in run if record.HasField("run")]
    return found


def history(run: list[Record]) -> list[dict[str, Any]]:
    """Return the logged rows."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in run
        if record.HasField("history")
    ]


def configuration(run: list[Record]) -> dict[str, Any]:
    """Return the configuration."""
    return {item.key: json.loads(item.value_json) for item in started(run).config.update}


def summary(run: list[Record]) -> dict[str, Any]:
    """Return the last value of each key of the summary."""
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in run
        if record.HasField("summary")
        for item in record.summary.update
    }


def tables(directory: Path) -> list[dict[str, Any]]:
    """Return the tables of all runs in `directory`."""
    return [json.loads(path.read_text()) for path in directory.glob("wandb/offline-run-*/files/media/table/*.json")]


def artifacts(run: list[Record]) -> dict[str, list[str]]:
    """Return the names of the files of each artifact, by its type."""
    found = [record.artifact for record in run if record.HasField("artifact")]
    found += [record.request.log_artifact.artifact for record in run if record.request.HasField("log_artifact")]
    return {each.type: sorted(entry.path for entry in each.manifest.contents) for each in found}


def seen_on_disk(directory: Path) -> bytes:
    """Return all paths and contents below `directory` in one piece."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return b"".join(path.read_bytes() + path.as_posix().encode() for path in files)
