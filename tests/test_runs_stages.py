"""The seconds of a run, by stage."""

import time

from preftune.runs.stages import Stages


def test_a_stage_takes_the_seconds_inside_it_and_adds_them_to_its_earlier_ones() -> None:
    seconds = Stages()
    seconds.measure("train", lambda: time.sleep(0.02))
    before = seconds.seconds["train"]
    with seconds("train"):
        time.sleep(0.02)
        inside = seconds.state()["train"]
    assert 0.02 <= before < before + 0.02 <= inside <= seconds.seconds["train"]


def test_a_start_that_goes_on_counts_on_from_the_earlier_one() -> None:
    seconds = Stages()
    seconds.seconds["data"] = 1.0
    seconds.restore({"data": 2.0, "train": 4.0})
    assert seconds.seconds == {"data": 3.0, "train": 4.0}


def test_a_training_that_goes_back_has_spent_its_time_all_the_same() -> None:
    seconds = Stages()
    with seconds("train"):
        seconds.restore({"data": 2.0, "train": 4.0})
    assert seconds.seconds.keys() == {"train"}
    assert seconds.seconds["train"] < 1.0
