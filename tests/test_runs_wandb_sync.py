"""A run that goes on is one run at W&B's server, whether it was online or is uploaded later."""

import json
import os
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

from tests import wandb_files
from tests.wandb_files import start

KEY = "a" * 40
no_account = pytest.fixture(autouse=True)(wandb_files.no_account)


class Server(BaseHTTPRequestHandler):
    """Keeps the rows of runs by id, as W&B's server does, and tells a client that resumes what it has."""

    rows: dict[str, list[dict[str, Any]]] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path.endswith("/graphql"):
            self._answer({"data": self._queried(json.loads(body))})
        elif self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if history:
                del self.rows[run][history["offset"] :]
                self.rows[run] += [json.loads(line) for line in history["content"]]
            self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer({})

    def _queried(self, asked: dict[str, Any]) -> dict[str, Any]:
        values, project = asked["variables"], {"id": "p", "name": "preftune", "entity": {"id": "e", "name": "me"}}
        if asked["operationName"] == "UpsertBucket":
            new = values["name"] not in self.rows
            self.rows.setdefault(values["name"], [])
            run = {"id": "i", "name": values["name"], "displayName": "r", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": run, "inserted": new}}
        if asked["operationName"] == "RunResumeStatus":
            return {"model": project | {"bucket": self._status(values["name"])}}
        if asked["operationName"] == "CreateRunFiles":
            host = self.headers["Host"]
            files = [{"name": name, "uploadUrl": f"http://{host}/{name}"} for name in values["files"]]
            return {"createRunFiles": {"runID": "i", "uploadHeaders": [], "files": files}}
        return {}

    def _status(self, run: str) -> dict[str, Any] | None:
        if run not in self.rows:
            return None
        rows = self.rows[run]
        empty = {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "config": "{}", "tags": []}
        last = {"historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]])}
        return (
            {"name": run, "id": "i", "displayName": "r", "summaryMetrics": "{}", "wandbConfig": '{"t":1}'}
            | empty
            | last
        )

    def _answer(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def server() -> Iterator[str]:
    Server.rows.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()


def train_until_killed_then_go_on(tmp_path: Path) -> list[str]:
    """Track steps 0 to 3, then 2 to 4 as after a checkpoint at 1; return how it was tracked."""
    told = []
    for resumed, steps in ((False, (0, 1, 2, 3)), (True, (2, 3, 4))):
        tracker = start(tmp_path, resumed=resumed)
        for step in steps:
            tracker.log({"loss": 1 - step / 10}, step=step)
            tracker.log({"eval_loss": 2 - step / 10}, step=step)
        tracker.finish(0)
        told.append(tracker.describe())
        time.sleep(1.1)  # W&B names an offline directory after the second of its start
    return told


def points(key: str) -> list[tuple[int, float]]:
    (rows,) = Server.rows.values()
    return [(row["step"], row[key]) for row in rows if key in row]


def losses(start_at: float) -> list[tuple[int, float]]:
    return [(step, start_at - step / 10) for step in (0, 1, 2, 3, 2, 3, 4)]


def test_a_run_that_goes_on_online_adds_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with server() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        told = train_until_killed_then_go_on(tmp_path)
    assert [line.partition(",")[0] for line in told] == ["W&B online", "W&B online"]
    assert told[0] == told[1]
    assert points("loss") == losses(1)
    assert points("eval_loss") == losses(2)


def test_a_run_that_went_on_offline_is_uploaded_as_one(tmp_path: Path) -> None:
    told = train_until_killed_then_go_on(tmp_path)
    pattern = told[1].rpartition(f"{tmp_path}/")[2]
    directories = sorted(str(path) for path in tmp_path.glob(pattern))
    assert len(directories) == 2
    wandb = Path(sys.executable).with_name("wandb")
    with server() as address:
        environment = os.environ | {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY}
        synced = subprocess.run(
            [wandb, "sync", *directories], env=environment, capture_output=True, text=True, check=False
        )
    assert synced.returncode == 0, synced.stderr
    assert points("loss") == losses(1)
    assert points("eval_loss") == losses(2)
    (rows,) = Server.rows.values()
    assert [row["_step"] for row in rows] == list(range(7))
