"""Loss spikes on traces made by hand, and in a run."""

import json
import math
import random
from pathlib import Path

import pytest

from preftune.training.spikes import FEWEST, WINDOW, Spike, Spikes
from tests.point_runs import build, guard


def found(losses: list[float], limit: float | None = 10.0) -> list[Spike]:
    spikes = Spikes(limit)
    for step, loss in enumerate(losses, start=1):
        spikes.see(step, loss, lambda: [(9.0, "a:2"), (1.0, "a:1")])
    return spikes.found


def noisy(steps: int, *, seed: int = 0, fall: float = 0.0) -> list[float]:
    """Return losses from log 2 on that fall by `fall` a step and vary by a normal 0.05."""
    drawn = random.Random(seed)
    return [math.log(2) - fall * step + drawn.gauss(0, 0.05) for step in range(steps)]


@pytest.mark.parametrize("fall", [0.0, 0.002, -0.0005])
def test_ordinary_noise_and_slow_change_are_no_spikes(fall: float) -> None:
    assert [found(noisy(300, seed=seed, fall=fall)) for seed in range(20)] == [[]] * 20


def test_a_jump_is_found_at_its_step_and_names_its_costliest_rows() -> None:
    losses = noisy(60)
    losses[40] = 3.0
    (spike,) = found(losses)
    assert (spike.step, spike.loss) == (41, 3.0)
    assert spike.sentence().startswith("The loss of step 41 is 3, ")
    assert "Its costliest rows: a:2 (9), a:1 (1). Look at those rows" in spike.sentence()
    assert spike.to_json()["rows"] == ["a:2", "a:1"]


def test_the_limit_is_counted_in_deviations_of_the_losses_before() -> None:
    # median 1, median absolute deviation 0.1, so a deviation of 0.14826; 10 of them end at 2.4826
    before = [0.9, 1.1, 1.0, 0.9, 1.1] * 8
    assert found([*before, 2.48]) == []
    (spike,) = found([*before, 2.49])
    assert spike.deviations == pytest.approx(1.49 / 0.14826)
    assert found([*before, 2.49], limit=11.0) == []


def test_losses_that_hardly_differ_have_a_deviation_of_a_hundredth_of_the_first() -> None:
    assert found([2.0] * 30 + [2.2]) == []
    assert len(found([2.0] * 30 + [2.21])) == 1


def test_a_fall_is_no_spike() -> None:
    assert found([*noisy(40), -50.0]) == []


def test_the_first_steps_are_not_judged() -> None:
    assert found([*noisy(FEWEST - 1), 50.0]) == []
    assert len(found([*noisy(FEWEST), 50.0])) == 1


def test_several_spikes_do_not_hide_the_next() -> None:
    losses = noisy(100)
    for place in (30, 31, 32, 50, 90):
        losses[place] = 4.0
    assert [spike.step for spike in found(losses)] == [31, 32, 33, 51, 91]


def test_only_the_last_losses_are_compared_with() -> None:
    assert found([9.0] * (WINDOW + 50) + [1.0] * WINDOW + [8.0])[0].median == 1.0


def test_a_run_that_goes_on_finds_what_an_undisturbed_one_finds() -> None:
    losses = noisy(60)
    losses[30], losses[50] = 3.0, 4.0
    spikes = Spikes(10.0)
    for step, loss in enumerate(losses, start=1):
        if step == 45:
            state, spikes = json.loads(json.dumps(spikes.state())), Spikes(10.0)
            spikes.restore(state)
        spikes.see(step, loss, lambda: [(9.0, "a:2"), (1.0, "a:1")])
    assert [spike.to_json() for spike in spikes.found] == [spike.to_json() for spike in found(losses)]


def test_without_a_limit_nothing_is_found() -> None:
    assert found([*noisy(40), 50.0], limit=None) == []


@pytest.mark.parametrize("stop", [False, True])
def test_a_run_warns_of_a_spike_and_stops_where_the_guard_says_so(
    chatml_model: Path, pair_file: Path, tmp_path: Path, stop: bool
) -> None:
    judged = guard(*(["spike"] if stop else []))
    run = build(chatml_model, pair_file, tmp_path, prompts=0, judged_by=judged, max_steps=FEWEST + 3)
    costs = run.trainer.objective.costs

    def jumping(logps):  # type: ignore[no-untyped-def]
        jumps = run.trainer.model.training and run.trainer.state.global_step == FEWEST
        return {"loss": costs(logps)["loss"] + (50.0 if jumps else 0.0)}

    run.trainer.objective.costs = jumping  # type: ignore[method-assign]
    run.go()
    (spike,) = run.points.spikes.found
    assert spike.step == FEWEST + 1
    assert [title for title, _ in run.alerts if "spike" in title] == [f"loss spike at step {FEWEST + 1}"]
    assert len(spike.rows) == 8
    assert spike.rows == sorted(spike.rows, reverse=True)
    assert all(row.startswith("pairs.jsonl:") for _, row in spike.rows)
    assert run.trainer.state.global_step == (FEWEST + 1 if stop else FEWEST + 3)
    said = run.points.watch.final(FEWEST + 3).sentence
    assert said.endswith(f"Stopped for a loss spike at step {FEWEST + 1} of {FEWEST + 3} by guard.stop_on.") is stop
