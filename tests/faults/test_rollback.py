"""A training that goes back from a bad step comes to the bits of one that left its batch out from the start."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.models.settings import FullSettings
from preftune.refusals import Refusal, RunFailed
from preftune.training import verification
from preftune.training.bad_steps import LeftOut
from preftune.training.spikes import FEWEST
from tests import stock
from tests.point_runs import guard
from tests.resuming import Case, Start, assert_same, start, stopped_at

ONCE = guard(rollback=1)
STREAMED = {"streaming": True, "test_size": 2, "duplicates": "keep", "conflicts": "keep"}
CASES = {
    "lora": Case(),
    "dropout": Case(adapter=stock.lora(dropout=0.3), train={"disable_dropout": False}),
    "events of several steps": Case(train={"per_device_train_batch_size": 2, "logging_steps": 2}),
    "full": Case(adapter=FullSettings(name="full")),
    "nf4": Case(model={"quantization": "nf4", "dtype": "bfloat16"}),
    "packed": Case(engine="shared", train={"tokens_per_batch": 150}),
    "kto": Case(
        loss={"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        train={"per_device_train_batch_size": 4},
    ),
    "beta_dpo": Case(loss={"name": "beta_dpo", "beta": 0.1, "alpha": 6.0}),
    "stream": Case(data=STREAMED),
    "two epochs": Case(train={"max_steps": -1, "num_train_epochs": 3.0}),
}
Begin = Callable[..., Start]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def begin(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Begin:
    """Start a run in a directory below the test's own, from where it stands; some batches may be left out of it."""

    def go(directory: str, case: Case, *left_out: int, judged_by: Any = ONCE, **train: Any) -> Start:
        case = replace(case, guard=judged_by, train=case.train | train)
        begun = start(chatml_model, pair_file, tmp_path / directory, case)
        begun.trainer.rollback.left_out += [LeftOut(step, "loss", []) for step in left_out]
        return begun

    return go


def spoil(run: Start, where: str, *steps: int) -> Start:
    """Make the gradient of `steps` NaN, or the weights after them infinite, or the first row's loss."""
    trainer = run.trainer

    def plant(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.state.global_step + 1 not in steps:
            return gradient
        if where == "weights":
            trainer.optimizer.param_groups[0]["lr"] = math.inf
            return gradient
        return gradient * math.nan

    def refuse(losses: torch.Tensor, *rest: Any) -> None:
        bad = trainer.model.training and trainer.state.global_step + 1 in steps
        checked(losses * torch.tensor([math.nan if bad and row == 0 else 1.0 for row in range(len(losses))]), *rest)

    checked = trainer.refuse_not_finite
    if where == "loss":
        trainer.refuse_not_finite = refuse  # type: ignore[method-assign]
    else:
        next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(plant)
    return run


def assert_equal(run: Start, other: Start) -> None:
    """Refuse runs whose weights, log or counts differ."""
    assert_same(run.weights(), other.weights())
    assert run.events() == other.events()
    apart = {"seconds_in_evaluation": 0, "seconds_in_reference": 0, "reference_computed": 0}
    ours, theirs = (replace(each.trainer.totals(), **apart) for each in (run, other))
    assert ours == theirs


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_back_from_a_bad_step_and_leaves_its_batch_out(
    begin: Begin, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left = begin("left", CASES[name], 4).go()
    went_back = spoil(begin("back", CASES[name]), "loss", 4).go()
    assert_equal(went_back, left)
    (found,) = went_back.trainer.rollback.left_out
    assert (found.step, found.what, len(found.rows)) == (4, "loss", 1)
    steps, every = went_back.trainer.state.global_step, went_back.trainer.args.logging_steps
    logged = [event["step"] for event in went_back.events() if "loss" in event]
    assert logged == [step for step in range(1, steps + 1) if step % every == 0 and (step != 4 or every > 1)]
    assert steps >= 5
    said = " ".join(capsys.readouterr().out.split())
    assert f"Its rows: {found.rows[0]}. Lower" in said
    assert " 3/6 " in said  # the bar that stopped there
    assert "warning: rollback from step 4: the loss of step 4 must be finite, got NaN or infinity;" in said
    assert "Training goes on from step 2 and leaves the batch of step 4 out, 1 of at most 1 (guard.rollback)." in said


@pytest.mark.parametrize("where", ["gradient", "weights"])
def test_a_run_goes_back_from_what_a_step_made_of_its_gradient_or_weights(begin: Begin, where: str) -> None:
    left = begin("left", Case(), 3).go()
    went_back = spoil(begin("back", Case()), where, 3).go()
    assert_equal(went_back, left)
    assert [(each.step, each.what, len(each.rows)) for each in went_back.trainer.rollback.left_out] == [(3, where, 8)]


@pytest.mark.parametrize("step", [1, 2])
def test_the_start_is_gone_back_to_where_nothing_was_saved_yet(
    begin: Begin, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = verification.check_first_step, []
    monkeypatch.setattr(verification, "check_first_step", lambda *each: looked.append(look(*each)))
    left = begin("left", Case(), step, save_steps=3).go()
    assert len(looked) == 2  # micro-batches of the first step that trained, whichever that was
    went_back = spoil(begin("back", Case(), save_steps=3), "gradient", step).go()
    assert_equal(went_back, left)
    assert went_back.trainer.verified is not None
    assert math.isfinite(went_back.trainer.totals().loss_first)


def test_what_is_left_out_is_left_out_of_no_other_step_and_of_the_means(begin: Begin) -> None:
    whole, left = begin("whole", Case()).go(), begin("left", Case(), 6).go()
    assert not torch.equal(*(next(iter(run.weights().values())) for run in (whole, left)))
    losses, others = ({e["step"]: e["loss"] for e in run.events() if "loss" in e} for run in (whole, left))
    assert others == {step: loss for step, loss in losses.items() if step < 6}
    means = [next(e["train_loss"] for e in run.events() if "train_loss" in e) for run in (whole, left)]
    assert means[0] == pytest.approx(sum(losses.values()) / 6)
    assert means[1] == pytest.approx(sum(others.values()) / 5)
    by_two, all_of = begin("two", Case(), 6, logging_steps=2), [losses[5], (losses[3] + losses[4]) / 2]
    logged = {e["step"]: e for e in by_two.go().events() if "loss" in e}
    assert [logged[6]["loss"], logged[4]["loss"]] == pytest.approx(all_of)
    assert "grad_norm" not in logged[6]
    assert "grad_norm" in logged[4]


def test_a_run_that_went_back_and_was_stopped_goes_on_without_the_batch(begin: Begin) -> None:
    left = begin("left", Case(), 4).go()
    assert stopped_at(spoil(begin("back", Case()), "gradient", 4), 5) == "stop at 5"
    assert_equal(begin("back", Case()).go(), left)


def test_more_bad_steps_than_may_be_left_out_end_the_run(begin: Begin) -> None:
    bad = spoil(begin("bad", Case(), judged_by=guard(rollback=2)), "gradient", 2, 4, 5)
    with pytest.raises(
        RunFailed, match=r"^the gradient of step 5 must be finite.*Batches left out before: 2 \(guard.rollback\)$"
    ):
        bad.go()
    assert [each.step for each in bad.trainer.rollback.left_out] == [2, 4]
    at_once = spoil(begin("none", Case(), judged_by=guard()), "gradient", 3)
    with pytest.raises(RunFailed, match=r"^the gradient of step 3 must be finite"):
        at_once.go()
    assert not (at_once.directory / "checkpoints" / "step-0").exists()


def test_a_run_of_bad_steps_alone_is_no_success(begin: Begin) -> None:
    with pytest.raises(RunFailed, match=r"got none: all 2 batches were left out by guard.rollback"):
        spoil(begin("all", Case(), judged_by=guard(rollback=9), max_steps=2), "gradient", 1, 2).go()


def test_a_run_goes_back_from_a_spike_that_the_guard_stops_on(begin: Begin) -> None:
    case = Case(train={"max_steps": FEWEST + 3, "save_steps": 5})
    left = begin("left", case, FEWEST + 1, judged_by=guard("spike", rollback=1)).go()
    back = begin("back", case, judged_by=guard("spike", rollback=1))
    costs = back.trainer.objective.costs  # type: ignore[union-attr]

    def jumping(logps: Any) -> dict[str, torch.Tensor]:
        jumps = back.trainer.model.training and back.trainer.state.global_step == FEWEST
        return {"loss": costs(logps)["loss"] + (50.0 if jumps else 0.0)}

    back.trainer.objective.costs = jumping  # type: ignore[union-attr, method-assign]
    back.go()
    assert_equal(back, left)
    assert [(each.step, each.what, len(each.rows)) for each in back.trainer.rollback.left_out] == [
        (FEWEST + 1, "spike", 8)
    ]
    assert back.points.spikes.found == []
    assert back.points.watch.stopped_at is None


def test_several_processes_do_not_go_back(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin("run", Case())
    monkeypatch.setattr(type(run.trainer.accelerator), "num_processes", 2)
    run.trainer.allow_rollbacks(0, lambda title, text: None)
    with pytest.raises(Refusal, match=r"^guard.rollback must be 0 where several processes train, got 3$"):
        run.trainer.allow_rollbacks(3, lambda title, text: None)
