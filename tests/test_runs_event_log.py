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


def test_a_log_that_goes_on_twice_knows_what_it_held(tmp_path: Path) -> None:
    EventLog(tmp_path / "metrics.jsonl")({"loss": 0.7}, 1)
    first = EventLog(tmp_path / "other.jsonl")
    first({"loss": 0.7}, 1)
    again = EventLog(tmp_path / "metrics.jsonl")
    again.restore(first.state())
    again({"loss": 0.6}, 2)
    EventLog(tmp_path / "metrics.jsonl").restore(again.state())


def test_a_log_that_is_not_as_it_was_at_the_checkpoint_is_refused_and_left(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "metrics.jsonl")
    log({"loss": 0.7}, 1)
    state, whole = log.state(), log.path.read_bytes()
    log({"loss": 0.6}, 2)
    for harmed, got in ((b"", "0"), (whole[:-1], "24"), (whole.replace(b"7", b"6"), "others")):
        log.path.write_bytes(harmed)
        with pytest.raises(Refusal) as refusal:
            log.restore(state)
        assert str(refusal.value) == (
            f"{log.path} must begin with the 25 bytes that were logged up to the checkpoint, got {got}; put it back, "
            f"or remove {tmp_path / 'checkpoints'} to begin anew"
        )
        assert log.path.read_bytes() == harmed
    log.path.unlink()
    with pytest.raises(Refusal, match="got 0"):
        log.restore(state)
    assert not log.path.exists()
