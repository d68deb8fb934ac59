"""The word for a state, on traces made by hand."""

import math
from typing import Any

import pytest

from preftune.reporting.verdict import Watch, judge
from tests.point_runs import guard

START = {
    "loss": 0.6931,
    "accuracy": 0.5,
    "logratio_margin": 0.0,
    "rewards/margins": 0.0,
    "chosen_logp_per_token": -1.0,
    "rejected_logp_per_token": -1.1,
}
HEALTHY = {"loss": 0.6, "accuracy": 0.7, "logratio_margin": 3.0, "rewards/margins": 0.3}
SATURATED = {"loss": 0.05, "accuracy": 0.99, "logratio_margin": 90.0, "rewards/margins": 9.0}
FALLEN = {"chosen_logp_per_token": -1.6}
LOST = {"chosen_logp_per_token": -5.0, "rejected_logp_per_token": -6.0}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (HEALTHY, "healthy"),
        ({"accuracy": 0.51, "logratio_margin": 0.1}, "not_learning"),
        ({"accuracy": 0.7, "logratio_margin": -0.1}, "not_learning"),
        (HEALTHY | FALLEN, "displaced"),
        (HEALTHY | LOST, "collapsed"),
        (HEALTHY | LOST | {"rejected_logp_per_token": -4.0}, "displaced"),  # rejected fell by less than 3
        (SATURATED, "saturated"),
        (SATURATED | {"loss": 0.051}, "healthy"),
        (SATURATED | {"accuracy": 0.98}, "healthy"),
        (SATURATED | FALLEN, "displaced"),
    ],
)
def test_each_state_has_its_word(changes: dict[str, float], word: str) -> None:
    assert judge(START, START | changes, guard()).word == word


def test_a_loss_that_is_low_because_margins_stand_at_their_target_is_not_saturated() -> None:
    # ipo_sum with beta 0.1 wants a margin of 5 nats: a reward of 0.5
    start, end = START | {"loss": 25.0}, START | SATURATED | {"loss": 0.01, "rewards/margins": 0.5}
    assert judge(start, end, guard()).word == "healthy"


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_what_a_sigmoid_loss_needs_is_what_rewards_must_have_run_off_to(limit: float) -> None:
    margin = -math.log(math.expm1(limit))
    assert math.log1p(math.exp(-margin)) == pytest.approx(limit)
    for change, word in ((1e-6, "saturated"), (-1e-6, "healthy")):
        end = START | SATURATED | {"loss": 0.0, "rewards/margins": margin + change}
        assert judge(START, end, guard(saturated_loss=limit)).word == word


@pytest.mark.parametrize(
    ("threshold", "value", "changes", "words"),
    [
        ("displaced", 0.7, HEALTHY | FALLEN, ("displaced", "healthy")),
        ("collapsed", 5.0, HEALTHY | LOST, ("collapsed", "displaced")),
        ("saturated_accuracy", 0.995, SATURATED, ("saturated", "healthy")),
        ("saturated_loss", 0.04, SATURATED, ("saturated", "healthy")),
        ("learned", 0.3, HEALTHY, ("healthy", "not_learning")),
    ],
)
def test_each_threshold_is_a_setting(
    threshold: str, value: float, changes: dict[str, float], words: tuple[str, str]
) -> None:
    found = [judge(START, START | changes, each).word for each in (guard(), guard(**{threshold: value}))]
    assert tuple(found) == words


def test_that_nothing_is_learned_yet_is_no_news_before_the_end() -> None:
    early = judge(START, START | {"accuracy": 0.51, "logratio_margin": 0.1}, guard(), final=False)
    assert early.word == "healthy"
    assert early.sentence == "Held-out accuracy is 0.510 (chance is 0.5) with a margin of +0.100 nats so far."


ALONE: dict[str, Any] = START | {"loss": 0.5, "accuracy": None, "logratio_margin": None, "rewards/margins": None}


@pytest.mark.parametrize(
    ("changes", "final", "word", "sentence"),
    [
        ({"loss": 0.31}, True, "healthy", "Held-out loss fell from 0.500 to 0.310; without pairs there is no accuracy"),
        ({"loss": 0.5}, True, "not_learning", "Held-out loss went from 0.500 to 0.500: the policy did not learn"),
        ({"loss": 0.5}, False, "healthy", "Held-out loss went from 0.500 to 0.500 so far."),
        ({"loss": 0.3} | FALLEN, True, "displaced", "The chosen answers themselves became less likely"),
    ],
)
def test_without_pairs_the_loss_is_judged(changes: dict[str, float], final: bool, word: str, sentence: str) -> None:
    verdict = judge(ALONE, ALONE | changes, guard(), final=final)
    assert verdict.word == word
    assert verdict.sentence.startswith(sentence)


def test_without_desirable_answers_their_change_is_not_judged() -> None:
    absent = ALONE | {"chosen_logp_per_token": None}
    assert judge(absent, absent | {"loss": 0.4}, guard()).word == "healthy"


def test_a_trace_leaves_the_states_as_it_came_into_them() -> None:
    watch = Watch(guard(), START)
    trace = [START, START | HEALTHY, START | HEALTHY | FALLEN, START | HEALTHY | FALLEN, START | HEALTHY]
    entered = [watch.see(step, now, final=step == 40) for step, now in enumerate(trace, 36)]
    assert [each is not None for each in entered] == [True, False, True, False, True]
    assert [(each.step, each.verdict.word) for each in watch.entered] == [
        (36, "healthy"),
        (38, "displaced"),
        (40, "healthy"),
    ]
    assert watch.entered[1].to_json() == {
        "step": 38,
        "word": "displaced",
        "sentence": "The chosen answers themselves became less likely (-0.60 nats per token): probability went to "
        "answers that are in neither column. Lower the learning rate or raise beta.",
    }


def test_only_the_states_that_are_named_stop_and_the_verdict_says_so() -> None:
    watch = Watch(guard("displaced"), START)
    watch.see(10, START | HEALTHY, final=False)
    assert not watch.stops(10, "healthy")
    assert "Stopped" not in watch.final(40).sentence
    watch.see(20, START | HEALTHY | FALLEN, final=False)
    assert watch.stops(20, "displaced")
    assert watch.final(40).word == "displaced"
    assert watch.final(40).sentence.endswith("raise beta. Stopped at step 20 of 40 by guard.stop_on.")
