"""A run that was stopped or killed comes to the bits, and to the log, of one that was not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.models.settings import FullSettings
from preftune.refusals import Interrupted
from tests import stock
from tests.point_runs import SIGMOID, guard
from tests.resuming import Case, Start, assert_same, start, stopped_at

STREAMED = {"streaming": True, "test_size": 2, "duplicates": "keep", "conflicts": "keep"}
Begin = Callable[..., Start]

CASES = {
    "lora": Case(),
    "dropout": Case(adapter=stock.lora(dropout=0.3), train={"disable_dropout": False}),
    "accumulation off the grid": Case(train={"per_device_train_batch_size": 2, "logging_steps": 4, "save_steps": 3}),
    "two epochs": Case(train={"max_steps": -1, "num_train_epochs": 3.0}),
    "bfloat16 adapter": Case(adapter=stock.lora(dtype="bfloat16"), model={"dtype": "bfloat16"}),
    "dora": Case(adapter=stock.lora(name="dora", modules_to_save=["lm_head"])),
    "nf4": Case(model={"quantization": "nf4", "dtype": "bfloat16"}),
    "full": Case(adapter=FullSettings(name="full")),
    "8-bit optimizer": Case(adapter=FullSettings(name="full"), train={"optim": "paged_adamw_8bit"}),
    "shared": Case(engine="shared"),
    "packed": Case(engine="shared", train={"tokens_per_batch": 150}),
    "kto": Case(
        loss={"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        train={"per_device_train_batch_size": 4},
    ),
    "beta_dpo": Case(loss={"name": "beta_dpo", "beta": 0.1, "alpha": 6.0}),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def begin(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Callable[..., Start]:
    """Start a run in a directory below the test's own, from where it stands."""

    def go(directory: str, case: Case = Case(), **train: Any) -> Start:  # noqa: B008 - it is frozen
        return start(chatml_model, pair_file, tmp_path / directory, replace(case, train=case.train | train))

    return go


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_ends_in_the_bits_and_the_log_of_one_that_was_not(begin: Begin, name: str) -> None:
    whole = begin("whole", CASES[name]).go()
    assert stopped_at(begin("parts", CASES[name]), 3) == "stop at 3"
    resumed = begin("parts", CASES[name])
    assert resumed.saved.going_on is not None
    assert resumed.saved.going_on.step == 3
    resumed.go()
    assert_same(whole.weights(), resumed.weights())
    assert whole.events() == resumed.events()
    assert whole.trainer.totals().pairs == resumed.trainer.totals().pairs


def polls(run: Start, until: int | None = None) -> list[tuple[int, bool]]:
    """Let the run ask whether it is to stop, up to the `until`-th time; return its step, and if in training, each."""
    asked: list[tuple[int, bool]] = []

    def requested() -> str | None:
        asked.append((run.trainer.state.global_step, run.trainer.is_in_train))
        return "enough" if len(asked) == until else None

    run.trainer.stop_on(requested)
    if until is None:
        run.go()
    else:
        with pytest.raises(Interrupted, match=r"^enough$"):
            run.go()
    return asked


def test_a_run_can_be_stopped_at_each_batch_of_an_evaluation_and_between_samples(begin: Begin) -> None:
    whole = begin("whole")
    asked = polls(whole)
    # two batches of held-out pairs; the reference's answers at the start, the policy's later
    assert asked[:4] == [(0, False)] * 4
    within = [place for place, (step, training) in enumerate(asked, 1) if training and step == 3]
    assert len(within) == 5  # two batches, two of samples, the end of the step
    end = [place for place, (step, training) in enumerate(asked, 1) if not training and step == 6]
    for place in (within[0], within[3], end[0]):  # a batch, samples, after the training
        parts = begin(f"parts-{place}")
        polls(parts, place)
        kept = [path.name for path in (parts.directory / "checkpoints").iterdir()]
        resumed = begin(f"parts-{place}").go()
        assert f"step-{3 if place in within else 6}" in kept
        assert_same(whole.weights(), resumed.weights())
        assert whole.events() == resumed.events()
        assert [s["policy"] for s in whole.points.samples] == [s["policy"] for s in resumed.points.samples]
        assert whole.points.watch.entered == resumed.points.watch.entered


def test_a_run_stopped_twice_goes_on_twice(begin: Begin) -> None:
    whole = begin("whole").go()
    for step in (2, 3, 3, 5):  # the third start is stopped at the first step that it asks after, the fourth
        stopped_at(begin("parts"), step)
    resumed = begin("parts").go()
    assert_same(whole.weights(), resumed.weights())
    assert whole.events() == resumed.events()


def test_a_run_stopped_at_its_last_step_trains_no_further(begin: Begin) -> None:
    whole = begin("whole", max_steps=5).go()  # in the middle of an epoch, where the stock loop would go on
    stopped_at(begin("parts", max_steps=5), 5)
    for _ in range(2):
        resumed = begin("parts", max_steps=5).go()
        assert resumed.trainer.state.global_step == 5
        assert_same(whole.weights(), resumed.weights())
        assert whole.events() == resumed.events()
        assert whole.trainer.totals().loss_last == resumed.trainer.totals().loss_last


def test_a_run_that_its_guard_ended_is_not_trained_on(begin: Begin) -> None:
    fast = {"max_steps": 12, "learning_rate": 1e-2, "save_steps": 5}
    ended = Case(loss=SIGMOID | {"beta": 1.0}, train=fast, points=4, guard=guard("saturated"))
    whole = begin("whole", ended).go()
    assert whole.trainer.state.global_step == 3
    resumed = begin("whole", ended)
    assert resumed.saved.going_on is not None
    assert resumed.saved.going_on.step == 3
    resumed.go()
    assert resumed.trainer.state.global_step == 3
    assert_same(whole.weights(), resumed.weights())
    assert whole.points.watch.final(12) == resumed.points.watch.final(12)


def test_counters_and_checks_go_on_where_they_were(begin: Begin) -> None:
    whole = begin("whole").go()
    stopped_at(begin("parts"), 3)
    resumed = begin("parts").go()
    one, other = whole.trainer.totals(), resumed.trainer.totals()
    counted = ("loss_first", "loss_last", "steps", "pairs", "tokens", "engine")
    assert [getattr(one, name) for name in counted] == [getattr(other, name) for name in counted]
    assert resumed.trainer.verified is not None
    assert replace(resumed.trainer.verified, seconds=0) == replace(whole.trainer.verified, seconds=0)


def test_what_the_configuration_says_of_the_optimizer_holds_after_going_on(begin: Begin) -> None:
    stopped_at(begin("parts"), 3)
    resumed = begin("parts", learning_rate=5e-4, weight_decay=0.1, adam_beta2=0.9, logging_steps=2)
    resumed.go()
    rates = {event["step"]: event["learning_rate"] for event in resumed.events() if "learning_rate" in event}
    assert rates == {1: 1e-3, 2: 1e-3, 3: 1e-3, 4: 5e-4, 6: 5e-4}
    (decayed, rest) = resumed.trainer.optimizer.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == (0.9, 0.9)
    assert int(next(iter(resumed.trainer.optimizer.state.values()))["step"]) == 6


def test_more_steps_than_were_meant_are_trained_from_the_last_checkpoint(begin: Begin) -> None:
    begin("parts", max_steps=4).go()
    longer = begin("parts", max_steps=6).go()
    assert longer.trainer.state.global_step == 6
    assert_same(begin("whole").go().weights(), longer.weights())


def test_a_stream_goes_on_in_the_pass_where_it_was(begin: Begin) -> None:
    streamed = Case(data=STREAMED, train={"max_steps": 7})  # 20 pairs a pass, 8 a step
    whole = begin("whole", streamed).go()
    for step in (1, 3, 5):
        stopped_at(begin("parts", streamed), step)
    resumed = begin("parts", streamed).go()
    assert_same(whole.weights(), resumed.weights())
    assert whole.events() == resumed.events()


def test_checkpoints_hold_no_pickle_that_could_run_code(begin: Begin) -> None:
    stopped_at(begin("parts"), 2)
    (saved,) = (begin("parts").directory / "checkpoints").iterdir()
    names = {path.name for path in saved.iterdir()}
    assert names == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "standing-0.json",
        "standing-0.safetensors",
        "trainer_state.json",
    }
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(saved / name, weights_only=True)
