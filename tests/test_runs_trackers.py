"""Trackers that stay on this machine, and what a person may ask of each."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preftune.runs import settings, trackers
from preftune.runs.settings import TrackSettings
from tests import wandb_files
from tests.wandb_files import history, offline_runs, start

TRACKIO = TrackSettings(name="trackio", project="preftune")
EVENTS = (
    ({"loss": 0.75, "rewards/margins": 0.0}, 0),
    ({"eval_loss": 0.7, "eval_sources/a/accuracy": 0.5}, 0),
    ({"loss": 0.5}, 10),
    ({"eval_loss": 0.6}, 10),
)


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield from wandb_files.no_account(tmp_path, monkeypatch)


def logged_by_trackio(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run `lines` in a process whose Trackio keeps its data in `trackio`, then print all logs as JSON."""
    script = f"""
import json, os, pathlib
import trackio
from preftune.runs.settings import TrackSettings
from preftune.runs.watching import start_tracker
def start(name="a run", **how):
    settings = TrackSettings(name="trackio", project="preftune")
    return start_tracker(settings, pathlib.Path("run"), name, {{"loss": {{"beta": 0.1}}}}, **how)
EVENTS = {EVENTS!r}
{os.linesep.join(lines)}
from trackio.sqlite_storage import SQLiteStorage
found = [
    [record["name"], record["id"], SQLiteStorage.get_run_config("preftune", record["name"], run_id=record["id"]),
     SQLiteStorage.get_logs("preftune", record["name"], run_id=record["id"])]
    for record in SQLiteStorage.get_run_records("preftune")
]
print(json.dumps(found, default=str))
"""
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "PYTHONPATH": str(Path(trackers.__file__).parents[2]),
    }
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )


def test_tensorboard_holds_the_scalars_and_the_samples(tmp_path: Path) -> None:
    tracker = start(tmp_path, TrackSettings(name="tensorboard"))
    for metrics, step in EVENTS:
        tracker.log(metrics, step=step)
    tracker.log_samples([{"prompt": "p", "policy": "<script>"}])
    tracker.alert("collapsed", "KL is 31 nats")
    tracker.keep("data-report", [tmp_path / "data.html"])
    tracker.summarise({"loss_last": 0.5})
    tracker.finish(0)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.75), (10, 0.5)]
    text = events.Tensors("samples/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"policy": "<script>"' in text
    assert f"--logdir {tmp_path}/run/tensorboard" in tracker.describe()


def test_every_tracker_logs_the_same_metrics_at_the_same_steps(tmp_path: Path) -> None:
    for tracker in (start(tmp_path), start(tmp_path, TrackSettings(name="tensorboard"))):
        for metrics, step in EVENTS:
            tracker.log(metrics, step=step)
        tracker.finish(0)
    sent = {(key, step, value) for metrics, step in EVENTS for key, value in metrics.items()}
    (run,) = offline_runs(tmp_path / "run")
    own = {"_step", "_runtime", "_timestamp", "step"}
    in_wandb = {(key, row["step"], row[key]) for row in history(run) for key in row.keys() - own}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    in_tensorboard = {(tag, event.step, round(event.value, 6)) for tag in tags for event in events.Scalars(tag)}
    done = logged_by_trackio(
        tmp_path,
        "tracker = start()",
        "[tracker.log(metrics, step=step) for metrics, step in EVENTS]",
        "tracker.finish(0)",
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    rows = found[3]
    in_trackio = {(key, row["step"], row[key]) for row in rows for key in row.keys() - {"step", "timestamp"}}
    assert in_wandb == in_tensorboard == in_trackio == sent


def test_trackio_holds_configuration_group_samples_and_summary(tmp_path: Path) -> None:
    done = logged_by_trackio(
        tmp_path,
        "tracker = start(sweep='betas')",
        "tracker.log({'loss': 0.5}, step=7)",
        "tracker.log_samples([{'prompt': 'p', 'policy': 'a'}])",
        "tracker.alert('collapsed', 'KL is 31 nats')",
        "tracker.summarise({'loss_last': 0.5})",
        "tracker.finish(0)",
        "assert tracker.describe() == f'Trackio, project preftune in {os.environ[\"TRACKIO_DIR\"]} '"
        " '(`trackio show --project preftune` shows it)', tracker.describe()",
    )
    assert done.returncode == 0, done.stderr
    ((name, run_id, configuration, rows),) = json.loads(done.stdout)  # and nothing else was printed
    assert name == "a run"
    assert json.loads((tmp_path / "run" / "tracking.json").read_text()) == {"tracker": "trackio", "id": run_id}
    assert configuration["loss"] == {"beta": 0.1}
    assert configuration["_Group"] == "betas"
    values = {key: row[key] for row in rows for key in row}
    assert values["samples"]["_value"] == [{"prompt": "p", "policy": "a"}]
    assert '"loss_last": 0.5' in str(values["summary"])
    assert {row["step"] for row in rows} == {7}


def test_trackio_continues_the_run_that_goes_on_and_no_other(tmp_path: Path) -> None:
    done = logged_by_trackio(
        tmp_path,
        "for resumed, step in ((False, 1), (True, 2), (False, 1)):",
        "    tracker = start(resumed=resumed)",
        "    tracker.log({'loss': 0.5}, step=step)",
        "    tracker.finish(0)",
    )
    assert done.returncode == 0, done.stderr
    assert sorted([row["step"] for row in rows] for _, _, _, rows in json.loads(done.stdout)) == [[1], [1, 2]]


def test_trackio_asks_no_server_and_names_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARYCANARY")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(0.1)
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("TRACKIO_SERVER_URL", f"{address}/?write_token=CANARY")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        done = logged_by_trackio(tmp_path, "tracker = start()", "tracker.log({'a': 1.0}, step=0)", "tracker.finish(0)")
        with pytest.raises(TimeoutError):
            hub.accept()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0][2]["_Username"] is None
    assert b"CANARY" not in wandb_files.seen_on_disk(tmp_path / "trackio")


def test_none_tracks_nothing(tmp_path: Path) -> None:
    tracker = start(tmp_path, TrackSettings(name="none"))
    tracker.log({"loss": 0.5}, step=0)
    tracker.log_samples([{"policy": "a"}])
    tracker.alert("collapsed", "KL is 31 nats")
    tracker.keep("data-report", [tmp_path])
    tracker.summarise({"loss_last": 0.5})
    tracker.finish(0)
    assert tracker.describe() == f"nothing beside {tmp_path}/run/metrics.jsonl"
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"name": "wandb"}, "track.project must be a name for track=wandb, got null"),
        ({"name": "trackio"}, "track.project must be a name for track=trackio, got null"),
        (
            {"name": "none", "project": "p"},
            "track.project must be left out for track=none, got 'p'; choose track=wandb",
        ),
        (
            {"name": "tensorboard", "tags": ["a"]},
            "track.tags must be left out for track=tensorboard, got ['a']; choose track=wandb",
        ),
        (
            {"name": "trackio", "project": "p", "entity": "me"},
            "track.entity must be left out for track=trackio, got 'me'; choose track=wandb",
        ),
        (
            {"name": "trackio", "project": "p", "log_adapter": True},
            "track.log_adapter must be left out for track=trackio, got true; choose track=wandb",
        ),
        ({"name": "wandb", "project": "a/b"}, "String should match pattern"),
    ],
)
def test_track_settings_that_cannot_hold_are_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TrackSettings(**keys)
    assert sentence in str(refusal.value)


def test_trackio_that_is_not_installed_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(ValidationError) as refusal:
        TrackSettings(name="trackio", project="p")
    assert "track must be a tracker that is installed, got trackio; `pip install 'trackio>=0.43'` installs it" in str(
        refusal.value
    )
