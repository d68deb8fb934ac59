"""The run-time check: the three sides are compared, and the one that differs is named."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.models.settings import FullSettings
from preftune.refusals import RunFailed
from preftune.training import verification
from preftune.training.scratch_side import PairSide
from preftune.training.verification import Trained, Verified
from tests import stock
from tests.test_trainer import Make, make  # noqa: F401  a fixture
from tests.test_training import logps, mean_loss

LOG2 = math.log(2)


def compared(record: PairLogps, **fields: Any) -> Verified:
    trained = Trained(**{"logps": record, "loss": LOG2, "trl": LOG2, "trl_slopes": 0.0, "gradient_norm": 1.0} | fields)
    side = PairSide(_nothing, _nothing, {}, kl=False)
    return verification.compare(trained, logps([0.0], [0.0]), side, mean_loss, 1.0, torch.float32)


def _nothing(ids: torch.Tensor) -> torch.Tensor:
    raise AssertionError


def test_what_agrees_is_told_in_one_line() -> None:
    verified = compared(logps([0.0], [0.0]))
    assert verified.describe() == (
        "verified: loss 0.693147, scratch 0.693147, TRL 0.693147; largest difference 0e+00 nats over 4 sequences; "
        "gradient norm 1, scratch 1; 0.0 s"
    )


@pytest.mark.parametrize("field", ["policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"])
def test_each_log_probability_is_compared_with_scratch(field: str) -> None:
    right = logps([0.0], [0.0])
    wrong = dataclasses.replace(right, **{field: getattr(right, field) + 0.5})
    name = f"{field.split('_')[0]}'s {field.split('_')[1]}"
    with pytest.raises(RunFailed, match=rf"^the log-probability of the {name} completion must equal the one computed"):
        compared(wrong)


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ({"loss": 1.0}, "preftune's own loss disagrees with the other two"),
        ({"trl": 1.0}, "TRL disagrees with the other two"),
        ({"loss": 1.0, "trl": 1.0}, "the from-scratch loss disagrees with the other two"),
        ({"loss": 1.0, "trl": 2.0}, "none agree"),
        ({"loss": 1.0, "trl": None}, "they disagree"),
        ({"loss": math.nan}, "preftune's own loss disagrees with the other two"),
    ],
)
def test_the_loss_that_stands_alone_is_named(fields: dict[str, float | None], who: str) -> None:
    with pytest.raises(RunFailed, match=rf"^the loss must be the same [23] ways, got .*: {who}; report it"):
        compared(logps([0.0], [0.0]), **fields)


def test_a_gradient_to_tokens_other_than_trls_is_stopped() -> None:
    with pytest.raises(RunFailed, match=r"^the gradient to each token's log-probability must be the same as TRL's"):
        compared(logps([0.0], [0.0]), trl_slopes=0.5)


def test_a_gradient_norm_other_than_the_scratch_one_is_stopped() -> None:
    with pytest.raises(RunFailed, match=r"^the gradient norm must be 1 as computed from scratch, within 0\.001 of it"):
        compared(logps([0.0], [0.0]), gradient_norm=1.1)


def test_a_gradient_that_points_elsewhere_is_stopped_whatever_its_norm() -> None:
    with pytest.raises(RunFailed) as failed:
        compared(logps([0.0], [0.0]), gradient_cosine=-1.0)
    assert str(failed.value) == (
        "the gradient must point where the one computed from scratch points, with a cosine of at least 0.999 between "
        "them, got -1.0000: the backward pass that trains is wrong for this model; report it, or set verify=off to go "
        "on unchecked"
    )


@pytest.mark.parametrize("name", ["chosen_lengths", "rejected_lengths"])
def test_lengths_other_than_those_of_the_rows_are_stopped(name: str) -> None:
    right = logps([0.0], [0.0])
    wrong = dataclasses.replace(right, **{name: getattr(right, name) + 1})
    length = getattr(right, name).item()
    with pytest.raises(RunFailed) as failed:
        compared(wrong)
    assert str(failed.value) == (
        f"{name} must be that of each pair's own row, got {length + 1:g} where the row has {length:g}; report it, or "
        "set verify=off to go on unchecked"
    )


def test_numbers_other_than_those_of_the_rows_are_stopped() -> None:
    right = dataclasses.replace(logps([0.0, 0.0], [0.0, 0.0]), extras={"weight": torch.tensor([math.nan, 2.0])})
    exchanged = dataclasses.replace(right, extras={"weight": torch.tensor([2.0, math.nan])})
    side = PairSide(_nothing, _nothing, {}, kl=False)
    trained = Trained(right, mean_loss(right).mean().item())
    assert verification.compare(trained, right, side, mean_loss, None, torch.float32).largest_difference == 0
    with pytest.raises(RunFailed, match=r"^weight must be that of each pair's own row, got 2 where the row has nan;"):
        verification.compare(dataclasses.replace(trained, logps=exchanged), right, side, mean_loss, None, torch.float32)


@pytest.mark.parametrize(("name", "allowed"), [("kl", 1.0), ("collision", 2.0)])
def test_what_is_read_of_the_distributions_at_tokens_is_compared_with_scratch(name: str, allowed: float) -> None:
    zero = torch.zeros(1, 2)
    right = dataclasses.replace(
        logps([0.0], [0.0]),
        chosen_tokens=TokenLogps(zero, zero, zero, zero),
        rejected_tokens=TokenLogps(zero, zero, zero, zero),
    )
    side = PairSide(_nothing, _nothing, {}, kl=True)

    def found(difference: float) -> None:
        tokens = dataclasses.replace(right.tokens()[1], **{name: zero + difference * right.lengths()[1] / 2})
        trained = Trained(dataclasses.replace(right, rejected_tokens=tokens), mean_loss(right).mean().item())
        verification.compare(trained, right, side, mean_loss, None, torch.float32)

    found(0.99e-4 * allowed)
    with pytest.raises(RunFailed, match=rf"^the {name} of the rejected completion must equal the one computed from"):
        found(1.01e-4 * allowed)


@pytest.mark.parametrize(
    ("verify", "steps"), [("off", []), ("first_batch", [0]), ("every_2", [0, 2, 4]), ("every_1", [0, 1, 2, 3, 4])]
)
def test_checks_fall_due_as_they_are_asked_for(verify: str, steps: list[int]) -> None:
    last = None
    due = []
    for step in range(5):
        if verification.is_due(verify, step, last):
            due.append(step)
            last = compared(logps([0.0], [0.0]))
    assert due == steps


def test_a_process_that_goes_on_at_a_later_step_checks_its_first() -> None:
    assert verification.is_due("first_batch", 7, None)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("adapter", "model", "tolerance"),
    [
        (stock.lora(), {}, 1e-4),
        (FullSettings(name="full"), {}, 1e-4),
        (stock.lora(), {"dtype": "bfloat16"}, 0.1),
        (stock.lora(), {"dtype": "bfloat16", "quantization": "nf4"}, 0.1),
        (FullSettings(name="full"), {"dtype": "bfloat16"}, 0.1),
    ],
)
def test_the_first_micro_batch_is_the_same_three_ways(
    make: Make,  # noqa: F811
    adapter: Any,
    model: dict[str, Any],
    tolerance: float,
    accumulation: int,
) -> None:
    trainer = make(adapter=adapter, model=model, per_device_train_batch_size=8 // accumulation)
    trainer.train()
    verified = trainer.verified
    assert verified is not None
    assert (verified.loss, verified.scratch, verified.trl) == pytest.approx((LOG2, LOG2, LOG2), abs=1e-6)
    assert verified.gradient_norm == pytest.approx(verified.gradient_norm_scratch, rel=tolerance)
    assert verified.gradient_norm > 1e-3
    assert (verified.sequences, verified.checks) == (32 // accumulation, 1)
    assert verified.seconds > 0


def test_a_later_step_is_checked_where_it_is_asked_for(make: Make) -> None:  # noqa: F811
    trainer = make(verify="every_2", max_steps=4)
    trainer.train()
    assert trainer.verified is not None
    assert trainer.verified.checks == 2
    assert trainer.verified.loss < LOG2 - 1e-3
    assert trainer.verified.trl == pytest.approx(trainer.verified.loss, abs=1e-6)
    assert trainer.verified.scratch == pytest.approx(trainer.verified.loss, abs=1e-4)


def test_a_check_changes_nothing_that_is_trained(make: Make) -> None:  # noqa: F811
    ends = []
    for verify in ("every_1", "off"):
        trainer = make(verify=verify, max_steps=3)
        trainer.train()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]))
        assert (trainer.verified is None) == (verify == "off")
    assert torch.equal(*ends)


def test_a_head_that_is_wrong_stops_the_run_before_the_update(make: Make) -> None:  # noqa: F811
    trainer = make(engine="trl")
    forward = trainer.model.base_model.model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if kwargs.get("fused_lm_head"):
            output.log_probs = output.log_probs * 0.9
        return output

    trainer.model.base_model.model.forward = shifted
    with pytest.raises(RunFailed, match="the log-probability of the policy's chosen completion must equal the one"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_backward_pass_that_is_wrong_stops_the_run(make: Make) -> None:  # noqa: F811
    trainer = make()
    backward = trainer.accelerator.backward
    trainer.accelerator.backward = lambda loss, **keywords: backward(3.0 * loss, **keywords)
    with pytest.raises(RunFailed, match=r"the gradient norm must be .* as computed from scratch"):
        trainer.train()


def test_live_dropout_leaves_out_the_gradient_and_nothing_else(make: Make) -> None:  # noqa: F811
    trainer = make(adapter=stock.lora(dropout=0.3), disable_dropout=False)
    trainer.train()
    verified = trainer.verified
    assert verified is not None
    assert (verified.loss, verified.scratch, verified.trl) == pytest.approx((LOG2, LOG2, LOG2), abs=1e-6)
    assert verified.gradient_norm is None
    assert "gradient not compared, as dropout is drawn at random" in verified.describe()
