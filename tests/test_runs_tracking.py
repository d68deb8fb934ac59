"""Runs of W&B: where they write, what an unreachable server costs, and what they never write."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from preftune.runs import server, tracking
from tests import wandb_files
from tests.wandb_files import (
    CONFIGURATION,
    NAME,
    artifacts,
    configuration,
    history,
    offline_runs,
    seen_on_disk,
    start,
    started,
    summary,
    tables,
)

KEY = "a" * 30 + "CANARY_KEY"  # 40 characters, as W&B wants
no_account = pytest.fixture(autouse=True)(wandb_files.no_account)


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


def test_without_credentials_wandb_is_offline_and_says_so(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.finish(0)
    assert tracker.describe().startswith("W&B offline (no credentials found); to upload: wandb sync ")
    assert len(list(tmp_path.glob(tracker.describe().partition(f"wandb sync {tmp_path}/")[2]))) == 1


def test_an_offline_run_can_be_read_back(tmp_path: Path) -> None:
    tracker = start(tmp_path, sweep="betas")
    tracker.log({"loss": 0.6931, "rewards/margins": 0.0}, step=0)
    tracker.log({"loss": 0.5}, step=10)
    tracker.log({"eval_loss": 0.6}, step=10)
    tracker.log({"kl/sampled": 1.5}, step=10)
    tracker.log_samples([{"prompt": "p", "policy": "a"}, {"prompt": "q", "policy": "b"}])
    tracker.summarise({"loss_last": 0.5, "eval": {"loss": 0.6}})
    tracker.finish(0)
    (run,) = offline_runs(tmp_path / "run")
    about = started(run)
    assert (about.project, about.display_name) == ("preftune", NAME)
    assert (about.run_group, about.job_type, list(about.tags)) == ("betas", "train", ["beta"])
    assert {key: configuration(run)[key] for key in CONFIGURATION} == CONFIGURATION
    first, second = history(run)
    assert (first["_step"], first["step"], first["loss"], first["rewards/margins"]) == (0, 0, 0.6931, 0.0)
    assert (second["_step"], second["step"]) == (10, 10)
    assert (second["loss"], second["eval_loss"], second["kl/sampled"]) == (0.5, 0.6, 1.5)
    assert summary(run)["loss_last"] == 0.5
    assert summary(run)["eval"] == {"loss": 0.6}
    assert tables(tmp_path / "run") == [{"columns": ["prompt", "policy"], "data": [["p", "a"], ["q", "b"]]}]


def test_a_run_on_its_own_has_no_group(tmp_path: Path) -> None:
    start(tmp_path).finish(0)
    (run,) = offline_runs(tmp_path / "run")
    assert (started(run).run_group, started(run).job_type) == ("", "train")


def test_the_optimizer_step_is_the_axis_of_every_metric(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log({"loss": 0.5}, step=1)
    tracker.finish(0)
    (run,) = offline_runs(tmp_path / "run")
    axes = [record.metric for record in run if record.HasField("metric")]
    assert [(axis.glob_name, axis.step_metric) for axis in axes if axis.glob_name] == [("*", "step")]
    assert [axis.name for axis in axes if axis.options.hidden] == ["step"]


def test_the_summary_holds_the_last_value_and_beside_it_the_best(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    for step, loss, accuracy in ((0, 0.7, 0.5), (1, 0.4, 0.9), (2, float("nan"), 0.8), (3, 0.6, 0.7)):
        tracker.log({"eval_loss": loss, "eval_accuracy": accuracy, "loss": loss}, step=step)
    tracker.finish(0)
    found = summary(offline_runs(tmp_path / "run")[0])
    assert (found["eval_loss"], found["eval_loss_min"]) == (0.6, 0.4)
    assert (found["eval_accuracy"], found["eval_accuracy_max"]) == (0.7, 0.9)
    assert "loss_min" not in found


def test_the_best_of_a_run_that_goes_on_is_that_of_its_whole(tmp_path: Path) -> None:
    start(tmp_path).finish(0)
    events = [
        {"step": 0, "eval_loss": 0.2, "eval_accuracy": 0.9},
        {"step": 1, "eval_loss": "nan"},
        {"step": 1, "loss": 1},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"eval_loss": 0.')
    tracker = start(tmp_path, resumed=True)
    tracker.log({"eval_loss": 0.4, "eval_accuracy": 0.8}, step=2)
    tracker.finish(0)
    found = summary(offline_runs(tmp_path / "run")[-1])
    assert (found["eval_loss_min"], found["eval_accuracy_max"]) == (0.2, 0.9)


def test_a_run_that_goes_on_keeps_its_id_and_loses_no_event(tmp_path: Path) -> None:
    for resumed, steps in ((False, (0, 1, 2)), (True, (1, 2, 3)), (False, (0,))):
        tracker = start(tmp_path, resumed=resumed)
        for step in steps:
            tracker.log({"loss": 1.0 - step / 10}, step=step)
        tracker.finish(0)
    first, again, anew = offline_runs(tmp_path / "run")
    assert started(first).run_id == started(again).run_id != started(anew).run_id
    assert [started(run).resume for run in (first, again, anew)] == [False, True, False]
    assert [row["step"] for row in history(again)] == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "tracking.json").read_text()) == {
        "tracker": "wandb",
        "id": started(anew).run_id,
    }
    assert tracker.describe().endswith(f"wandb sync {tmp_path}/run/wandb/offline-run-*-{started(anew).run_id}")


def test_files_are_kept_as_artifacts_that_stand_in_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run" / "adapter").mkdir()
    for name in ("data.html", "data.json", "adapter/adapter_model.safetensors"):
        (tmp_path / "run" / name).write_text(name)
    tracker = start(tmp_path)
    tracker.keep("data-report", [tmp_path / "run" / name for name in ("data.html", "data.json", "ledger.json")])
    tracker.keep("adapter", [tmp_path / "run" / "adapter"])
    tracker.keep("nothing", [tmp_path / "run" / "absent"])
    tracker.finish(0)
    (run,) = offline_runs(tmp_path / "run")
    assert artifacts(run) == {"data-report": ["data.html", "data.json"], "adapter": ["adapter_model.safetensors"]}


def test_an_alert_is_written_down_for_the_upload(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.alert("collapsed", "KL to the reference is 31 nats")
    tracker.finish(0)
    (run,) = offline_runs(tmp_path / "run")
    alerts = [record.alert for record in run if record.HasField("alert")]
    assert [(each.title, each.text, each.level) for each in alerts] == [
        ("collapsed", "KL to the reference is 31 nats", "WARN")
    ]


def track_as_a_job(directory: Path) -> None:
    tracker = start(directory)
    tracker.log({"loss": 0.5}, step=0)
    tracker.finish(0)


def test_a_forked_job_leaves_no_process_of_wandb_and_loses_nothing(tmp_path: Path) -> None:
    def job() -> None:
        os.setsid()
        track_as_a_job(tmp_path)
        (tmp_path / "left").write_text(repr([child.name() for child in psutil.Process().children(recursive=True)]))

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "left").read_text() == "[]"
    (run,) = offline_runs(tmp_path / "run")
    assert [row["loss"] for row in history(run)] == [0.5]


def test_every_file_of_wandb_stands_in_the_run_directory(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log_samples([{"policy": "a"}])
    tracker.finish(0)
    outside = [
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
        and not path.is_relative_to(tmp_path / "run" / "wandb")
        and path != tmp_path / "run" / "tracking.json"
        # The log of W&B's own process stands in W&B's cache.
        and not path.is_relative_to(tmp_path / "home" / ".cache" / "wandb" / "logs")
    ]
    assert outside == []


def test_two_trackers_of_one_process_make_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "shared")
    for loss in (0.7, 0.6):
        tracker = start(tmp_path)
        tracker.log({"loss": loss}, step=0)
        tracker.finish(0)
    runs = offline_runs(tmp_path / "run")
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
    (run,) = offline_runs(tmp_path / "run")
    assert [row["loss"] for row in history(run)] == [0.5]
    assert not list((tmp_path / "run" / "wandb").glob("run-*"))
    assert b"CANARY" not in seen_on_disk(tmp_path / "run")


def test_a_server_that_falls_silent_holds_the_end_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking._FINISH + tracking._END <= 20
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
        assert time.monotonic() - started < 5 + tracking._END
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
from preftune.runs.watching import start_tracker
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
    assert job.stdout.startswith("went on; W&B offline (no credentials found)")
