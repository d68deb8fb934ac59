"""Trackers: where they write, what an unreachable server costs, and what they never write."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from preftune.runs import server, tracking
from preftune.runs.settings import TrackSettings
from preftune.runs.tracking import Tracker, start_tracker

WANDB = TrackSettings(name="wandb", project="preftune", tags=["beta"])
KEY = "a" * 30 + "CANARY_KEY"  # 40 characters, as W&B wants
CONFIGURATION = {"loss": {"name": "sigmoid", "beta": 0.1}, "seed": 0}


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start each test as a machine without W&B account, settings or session."""
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


def start(tmp_path: Path, settings: TrackSettings = WANDB) -> Tracker:
    return start_tracker(settings, tmp_path / "run", "tiny-toy-sigmoid-0123abcd", CONFIGURATION)


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


def offline_runs(tmp_path: Path) -> list[list[Record]]:
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    return [finished(file) for file in files]


def finished(file: Path) -> list[Record]:
    """Read a run up to its exit record, which W&B's own process writes shortly after `finish` returns."""
    for _ in range(100):
        run = list(records(file))
        if any(record.HasField("exit") for record in run):
            break
        time.sleep(0.1)
    return run


def history(run: list[Record]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in run
        if record.HasField("history")
    ]


@contextmanager
def closed_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    yield port


@contextmanager
def accepts_and_hangs() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]  # the kernel accepts; nobody ever answers


@contextmanager
def drops_packets() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(4)]  # they fill the queue; the next connect is ignored
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for each in waiting:
                each.close()


class OneRunThenSilence(BaseHTTPRequestHandler):
    """Makes a run, as W&B's server does, then answers nothing more once `silent` is set."""

    silent = threading.Event()
    over = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.silent.is_set():
            self.over.wait(60)
        project = {"id": "p", "name": "preftune", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "i", "name": "r", "displayName": "r", "config": "{}", "project": project}
        data = {"upsertBucket": {"bucket": bucket, "inserted": True}} if b"UpsertBucket" in body else {}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def makes_one_run_then_falls_silent() -> Iterator[int]:
    OneRunThenSilence.silent.clear()
    OneRunThenSilence.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), OneRunThenSilence) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield listener.server_address[1]
        finally:
            OneRunThenSilence.over.set()
            listener.shutdown()
            thread.join()


def seen_on_disk(directory: Path) -> bytes:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return b"".join(path.read_bytes() + path.as_posix().encode() for path in files)


def test_without_credentials_wandb_is_offline_and_says_so(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.finish(0)
    upload = f"wandb sync {tmp_path}/run/wandb/offline-run-*"
    assert tracker.describe() == f"W&B offline (no credentials found); to upload: {upload}"


def test_an_offline_run_can_be_read_back(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log({"loss": 0.6931, "rewards/margins": 0.0}, step=0)
    tracker.log({"loss": 0.5}, step=1)
    tracker.log({"eval_loss": 0.6}, step=1)
    tracker.log_samples([{"prompt": "p", "policy": "a"}, {"prompt": "q", "policy": "b"}])
    tracker.summarise({"loss_last": 0.5, "eval": {"loss": 0.6}})
    tracker.finish(0)
    (run,) = offline_runs(tmp_path)
    (started,) = [record.run for record in run if record.HasField("run")]
    assert (started.project, started.display_name) == ("preftune", "tiny-toy-sigmoid-0123abcd")
    assert list(started.tags) == ["beta"]
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert {key: config[key] for key in CONFIGURATION} == CONFIGURATION
    first, second = history(run)
    assert (first["_step"], first["loss"], first["rewards/margins"]) == (0, 0.6931, 0.0)
    assert (second["_step"], second["loss"], second["eval_loss"]) == (1, 0.5, 0.6)
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in run
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["loss_last"] == 0.5
    assert summary["eval"] == {"loss": 0.6}
    (table,) = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["prompt", "policy"],
        "data": [["p", "a"], ["q", "b"]],
    }


def test_every_file_of_wandb_stands_in_the_run_directory(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log_samples([{"policy": "a"}])
    tracker.finish(0)
    outside = [
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
        and not path.is_relative_to(tmp_path / "run" / "wandb")
        # The log of W&B's own process, which outlives a run, stands in W&B's cache.
        and not path.is_relative_to(tmp_path / "home" / ".cache" / "wandb" / "logs")
    ]
    assert outside == []


def test_two_trackers_of_one_process_make_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "shared")
    for loss in (0.7, 0.6):
        tracker = start(tmp_path)
        tracker.log({"loss": loss}, step=0)
        tracker.finish(0)
    runs = offline_runs(tmp_path)
    ids = {record.run.run_id for run in runs for record in run if record.HasField("run")}
    assert len(ids) == 2
    assert sorted(row["loss"] for run in runs for row in history(run)) == [0.6, 0.7]


def test_secrets_of_the_environment_are_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY_TOKEN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY_AWS")
    monkeypatch.setattr("sys.argv", ["run", "--token=CANARY_ARGUMENT"])
    tracker = start(tmp_path)
    assert "W&B's mode is offline" in tracker.describe()
    tracker.log({"loss": 0.5}, step=0)
    tracker.finish(0)
    assert b"CANARY" not in seen_on_disk(tmp_path / "run")


def test_a_disabled_wandb_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = start(tmp_path)
    tracker.log({"loss": 0.5}, step=0)
    tracker.finish(0)
    assert tracker.describe().endswith("metrics.jsonl (W&B's mode is disabled)")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("unreachable", [closed_port, drops_packets, accepts_and_hangs])
def test_an_unreachable_server_costs_at_most_20_seconds_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable: Any
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with unreachable() as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        tracker = start(tmp_path)
        tracker.log({"loss": 0.5}, step=0)
        tracker.finish(0)
        seconds = time.monotonic() - started
    assert seconds < 20
    assert "W&B offline" in tracker.describe()
    assert f"http://127.0.0.1:{port}" in tracker.describe()
    (run,) = offline_runs(tmp_path)
    assert [row["loss"] for row in history(run)] == [0.5]
    assert not list((tmp_path / "run" / "wandb").glob("run-*"))
    assert b"CANARY" not in seen_on_disk(tmp_path / "run")


def test_a_server_that_falls_silent_holds_the_end_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking._FINISH <= 20
    monkeypatch.setattr(tracking, "_FINISH", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with makes_one_run_then_falls_silent() as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        tracker = start(tmp_path)
        assert tracker.describe() == f"W&B online, http://127.0.0.1:{port}/me/preftune/runs/r"
        OneRunThenSilence.silent.set()
        tracker.log({"loss": 0.5}, step=0)
        started = time.monotonic()
        tracker.finish(0)
        assert time.monotonic() - started < 5
    assert b"CANARY" not in seen_on_disk(tmp_path / "run")


def test_a_malformed_key_falls_back_to_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "CANARY-too-short")
    with makes_one_run_then_falls_silent() as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        tracker = start(tmp_path)
        tracker.finish(0)
    assert "W&B offline" in tracker.describe()
    assert "API key must have 40+ characters" in tracker.describe()
    assert "CANARY" not in tracker.describe()


def test_a_key_in_the_netrc_file_is_found_by_either_name_of_the_cloud(tmp_path: Path) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    netrc.chmod(0o600)
    assert server.api_key("https://api.wandb.ai") == KEY
    assert server.api_key("https://api.forge.coreweave.com") == KEY
    assert server.api_key("https://wandb.example.org") is None


def test_a_slow_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(2) or [])
    started = time.monotonic()
    assert not server.answers("https://wandb.example.org")
    assert time.monotonic() - started < 1


def test_a_proxy_on_the_way_is_what_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_port() as dead, accepts_and_hangs() as proxy:
        assert not server.answers(f"http://localhost:{dead}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        assert server.answers(f"http://localhost:{dead}")


def test_a_run_goes_on_when_the_process_of_wandb_dies(tmp_path: Path) -> None:
    script = """
import pathlib, psutil, time
from preftune.runs.settings import TrackSettings
from preftune.runs.tracking import start_tracker
def start():
    return start_tracker(TrackSettings(name="wandb", project="p"), pathlib.Path("run"), "name", {})
tracker = start()
(core,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
core.kill()
core.wait()
for step in range(3):
    tracker.log({"loss": 0.5}, step=step)
    time.sleep(0.2)
tracker.summarise({"loss_last": 0.5})
tracker.finish(0)
print("went on;", start().describe())
"""
    source = {"PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    job = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | source, capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr
    assert job.stderr.count("W&B is lost, the run goes on without it: ") == 1
    assert job.stdout.startswith("went on; nothing beside run/metrics.jsonl (W&B cannot start: ")


def test_tensorboard_holds_the_scalars_and_the_samples(tmp_path: Path) -> None:
    tracker = start(tmp_path, TrackSettings(name="tensorboard"))
    tracker.log({"loss": 0.75, "rewards/margins": 0.0}, step=0)
    tracker.log({"loss": 0.5}, step=1)
    tracker.log_samples([{"prompt": "p", "policy": "<script>"}])
    tracker.summarise({"loss_last": 0.5})
    tracker.finish(0)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.75), (1, 0.5)]
    text = events.Tensors("samples/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"policy": "<script>"' in text
    assert f"--logdir {tmp_path}/run/tensorboard" in tracker.describe()


def test_none_tracks_nothing(tmp_path: Path) -> None:
    tracker = start(tmp_path, TrackSettings(name="none"))
    tracker.log({"loss": 0.5}, step=0)
    tracker.finish(0)
    assert tracker.describe() == f"nothing beside {tmp_path}/run/metrics.jsonl"
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"name": "wandb"}, "track.project must be a name for track=wandb, got null"),
        (
            {"name": "none", "project": "p"},
            "track.project must be left out for track=none, got 'p'; choose track=wandb",
        ),
        (
            {"name": "tensorboard", "tags": ["a"]},
            "track.tags must be left out for track=tensorboard, got ['a']; choose track=wandb",
        ),
        ({"name": "wandb", "project": "a/b"}, "String should match pattern"),
    ],
)
def test_track_settings_that_cannot_hold_are_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TrackSettings(**keys)
    assert sentence in str(refusal.value)
