"""metrics.jsonl: what is appended, and where a run that goes on cuts it."""

import json
from pathlib import Path

import pytest

from preftune.refusals import Refusal
from preftune.runs.event_log import EventLog


def logged(log: EventLog) -> list[int]:
    return [json.loads(line)["step"] for line in log.path.read_text().splitlines()]


def test_a_run_that_goes_on_cuts_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "metrics.jsonl")
    log({"loss": 0.7}, 1)
    state = log.state()
    log({"loss": 0.6}, 2)
    with log.path.open("ab") as file:
        file.write(b'{"step": 3, "lo')  # a kill in the middle of a line
    log.restore(state)
    assert logged(log) == [1]
    log({"loss": 0.6}, 2)
    assert logged(log) == [1, 2]


def test_a_log_that_is_shorter_than_at_the_checkpoint_is_refused_and_left(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "metrics.jsonl")
    log({"loss": 0.7}, 1)
    state = log.state()
    log.path.write_bytes(b"")
    sentence = (
        r"metrics.jsonl must hold the 25 bytes that were logged up to the checkpoint, got 0; put it back, or remove"
    )
    with pytest.raises(Refusal, match=sentence):
        log.restore(state)
    log.path.unlink()
    with pytest.raises(Refusal, match="got 0"):
        log.restore(state)
    assert not log.path.exists()
