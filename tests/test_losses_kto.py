"""The loss of single answers: values worked by hand, its gradient, its properties, and every refusal by its text."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from preftune.losses import scratch_kto
from preftune.losses.answers import AnswerLogps
from preftune.losses.kto import kto
from preftune.losses.traits import traits_of

LOG3 = math.log(3)


def record(desirable: list[bool], logratios: Tensor, mismatched: Tensor) -> AnswerLogps:
    """Answers with the given log-ratios: the reference's log-probabilities are -3, of mismatched answers -7."""
    minus_three, minus_seven = torch.full_like(logratios, -3.0), torch.full_like(mismatched, -7.0)
    lengths = torch.ones_like(logratios), torch.ones_like(mismatched)
    return AnswerLogps(torch.tensor(desirable), logratios - 3.0, minus_three, mismatched - 7.0, minus_seven, *lengths)


def nats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_record(count: int) -> AnswerLogps:
    generator = torch.Generator().manual_seed(count)
    logratios, mismatched = torch.randn(2, count, generator=generator, dtype=torch.float64) * 6
    return record((torch.rand(count, generator=generator) < 0.5).tolist(), logratios, mismatched)


@pytest.mark.parametrize(
    ("logratios", "mismatched", "expected"),
    [
        # at the reference: half of each weight, 1.5 and 0.8
        ((0.0, 0.0), (0.0, 0.0), (0.75, 0.4)),
        # beta r = log 3: sigma is 3/4. 1.5 / 4, and 0.8 * 3/4
        ((2 * LOG3, 2 * LOG3), (0.0, 0.0), (0.375, 0.6)),
        # beta r = -log 3: 1.5 * 3/4, and 0.8 / 4
        ((-2 * LOG3, -2 * LOG3), (0.0, 0.0), (1.125, 0.2)),
        # z = (3 log 3 + log 3) / 2 = 2 log 3: beta (r - z) = 0 and -log 3
        ((2 * LOG3, 0.0), (3 * LOG3, LOG3), (0.75, 0.2)),
        # the mismatched answers became less likely: z = 0
        ((2 * LOG3, 0.0), (-9.0, 1.0), (0.375, 0.4)),
    ],
)
def test_costs_are_those_worked_by_hand(
    logratios: tuple[float, ...], mismatched: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    answers = record([True, False], nats(*logratios), nats(*mismatched))
    costs = kto(answers, beta=0.5, desirable_weight=1.5, undesirable_weight=0.8)
    assert costs.tolist() == pytest.approx(list(expected), abs=1e-12)


def test_the_independent_loss_agrees() -> None:
    answers = random_record(40)
    parameters = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.4}
    torch.testing.assert_close(kto(answers, **parameters), scratch_kto.kto(answers, **parameters), rtol=0, atol=1e-12)
    below = dataclasses.replace(answers, policy_mismatched=answers.reference_mismatched - 5)
    torch.testing.assert_close(kto(below, **parameters), scratch_kto.kto(below, **parameters), rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    answers = random_record(12)

    def costs(policy: Tensor) -> Tensor:
        moved = dataclasses.replace(answers, policy=policy)
        return kto(moved, beta=0.3, desirable_weight=1.3, undesirable_weight=0.4)

    assert torch.autograd.gradcheck(costs, (answers.policy.clone().requires_grad_(),))


def test_no_gradient_flows_to_what_the_answers_are_measured_against() -> None:
    answers = record([True, False], nats(1.0, 2.0), nats(3.0, 4.0))
    policy, mismatched = (answers.policy.clone().requires_grad_(), answers.policy_mismatched.clone().requires_grad_())
    moved = dataclasses.replace(answers, policy=policy, policy_mismatched=mismatched)
    kto(moved, beta=0.3).sum().backward()  # type: ignore[no-untyped-call]
    assert mismatched.grad is None
    assert policy.grad is not None
    assert policy.grad[0] < 0 < policy.grad[1]


def test_an_answer_costs_less_the_more_it_moves_its_way() -> None:
    line = torch.linspace(-20, 20, 101, dtype=torch.float64)
    for desirable, sign in ((True, -1), (False, 1)):
        costs = kto(record([desirable] * 101, line, torch.zeros(101, dtype=torch.float64)), beta=0.5)
        assert bool((sign * costs.diff() > 0).all())


def test_an_answer_and_its_opposite_share_the_weight() -> None:
    line = torch.linspace(-20, 20, 101, dtype=torch.float64)
    shift = torch.full_like(line, 3.0)
    good, bad = (kto(record([desirable] * 101, line, shift), beta=0.5) for desirable in (True, False))
    torch.testing.assert_close(good + bad, torch.ones_like(line))


def test_the_cost_of_an_answer_depends_on_the_others_as_the_loss_declares() -> None:
    answers = record([True, True], nats(1.0, 1.0), nats(4.0, 0.0))
    first = record([True], nats(1.0), nats(4.0))
    assert kto(answers, beta=0.5)[0] != kto(first, beta=0.5)[0]
    assert not traits_of(kto).per_pair
    assert not traits_of(kto).accumulates


@pytest.mark.parametrize("far", [1e4, -1e4])
@pytest.mark.parametrize("desirable", [True, False])
def test_extreme_log_ratios_stay_finite(far: float, desirable: bool) -> None:
    moved = torch.tensor([far], requires_grad=True)
    zero = torch.zeros(1)
    cost = kto(AnswerLogps(torch.tensor([desirable]), moved, zero, zero, zero, zero, zero), beta=0.5)
    cost.backward()  # type: ignore[no-untyped-call]
    assert cost.item() == (0.0 if (far > 0) == desirable else 1.0)
    assert moved.grad is not None
    assert bool(moved.grad.isfinite().all())


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"beta": 0.0}, "beta must be above 0, got 0.0"),
        ({"beta": math.nan}, "beta must be above 0, got nan"),
        ({"desirable_weight": -0.5}, "desirable_weight must be at least 0, got -0.5"),
        ({"undesirable_weight": math.nan}, "undesirable_weight must be at least 0, got nan"),
        (
            {"desirable_weight": 0.0, "undesirable_weight": 0.0},
            "desirable_weight must be above 0 where undesirable_weight is 0, got 0",
        ),
    ],
)
def test_parameters_outside_their_range_are_refused(parameters: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        kto(random_record(2), **{"beta": 0.1} | parameters)


def test_records_join_and_stand_at_the_reference() -> None:
    answers = random_record(7)
    parts = [
        AnswerLogps(*(getattr(answers, name)[some] for name in AnswerLogps.__slots__))
        for some in (slice(0, 3), slice(3, 7))
    ]
    joined = AnswerLogps.concatenate(parts)
    assert all(torch.equal(getattr(joined, name), getattr(answers, name)) for name in AnswerLogps.__slots__)
    assert kto(answers.at_reference(), beta=0.3).tolist() == [0.5] * 7
