"""The plan of a run, and the numbers that the run-time checks compare."""

import math
from typing import Any

import pytest
import torch

from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal, RunFailed
from preftune.training import verification
from preftune.training.settings import TrainSettings
from preftune.training.steps import count_steps


def recipe(**keys: Any) -> TrainSettings:
    fields = {"name": "test", "global_batch_size": 8, "per_device_train_batch_size": 4}
    return TrainSettings.model_validate(fields | keys)


@pytest.mark.parametrize(
    ("keys", "pairs", "devices", "expected"),
    [
        # 20 pairs are 5 micro-batches of 4, two a step: 3 steps an epoch
        ({"num_train_epochs": 1.0}, 20, 1, (3, 0, 2)),
        ({"num_train_epochs": 2.0}, 20, 1, (6, 0, 2)),
        ({"num_train_epochs": 1.0}, 20, 2, (3, 0, 1)),
        ({"max_steps": 7}, 20, 1, (7, 0, 2)),
        # a tenth of 7 steps, rounded up
        ({"max_steps": 7, "warmup_steps": 0.1}, 20, 1, (7, 1, 2)),
        ({"max_steps": 7, "warmup_steps": 3}, 20, 1, (7, 3, 2)),
    ],
)
def test_steps_follow_from_pairs_batch_and_devices(
    keys: dict[str, Any], pairs: int, devices: int, expected: tuple[int, int, int]
) -> None:
    plan = count_steps(recipe(**keys), pairs, devices=devices)
    assert (plan.steps, plan.warmup_steps, plan.accumulation) == expected


def test_no_pairs_are_refused() -> None:
    with pytest.raises(Refusal, match="there must be at least one pair to train on, got none"):
        count_steps(recipe(), 0, devices=1)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused() -> None:
    with pytest.raises(Refusal, match=r"train\.global_batch_size must be a multiple of .*=4 times 3 devices, got 8"):
        count_steps(recipe(), 20, devices=3)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(Refusal, match=r"train\.warmup_steps must be below the run's 62 steps.*; got 100\."):
        count_steps(recipe(num_train_epochs=1.0, warmup_steps=100), 62 * 8, devices=1)


def logps(chosen: list[float], rejected: list[float]) -> PairLogps:
    """Log-ratios as given; reference log-probabilities of -4, lengths of 2 and 4."""
    base = torch.full((len(chosen),), -4.0)
    return PairLogps(
        base + torch.tensor(chosen),
        base + torch.tensor(rejected),
        base,
        base,
        torch.full((len(chosen),), 2),
        torch.full((len(chosen),), 4),
    )


def mean_loss(record: PairLogps) -> torch.Tensor:
    return -torch.nn.functional.logsigmoid(0.1 * record.margin())


def test_a_policy_that_left_its_reference_is_stopped_at_the_first_step() -> None:
    verification.check_first_step(logps([1e-5], [0.0]), mean_loss, torch.float32)
    with pytest.raises(
        RunFailed, match=r"rewards are 0 and the loss is 0\.693147; got a log-ratio of 0\.1 nats per token"
    ):
        verification.check_first_step(logps([0.2], [0.0]), mean_loss, torch.float32)


def test_a_policy_that_is_not_finite_is_stopped_at_the_first_step() -> None:
    with pytest.raises(RunFailed, match="before the first step the policy must equal its reference"):
        verification.check_first_step(logps([math.nan], [0.0]), mean_loss, torch.bfloat16)
