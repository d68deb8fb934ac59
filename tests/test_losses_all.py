"""What holds for every loss, and the weight that multiplies any of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preftune.losses import catalogue
from preftune.losses.logps import PairLogps
from preftune.losses.traits import traits_of
from tests.losses import PARAMETERS, extras_of, random_record, record, taken, with_tokens

ONE = torch.ones(1)
NUMBERS = {"probability": ONE * 0.3, "score": ONE * 2, "weight": ONE * 1.5}


def test_every_loss_is_tested_with_its_parameters() -> None:
    assert PARAMETERS.keys() == catalogue.LOSSES.keys() == catalogue.SCRATCH.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_loss_equals_the_from_scratch_one_on_random_pairs(name: str) -> None:
    torch.manual_seed(0)
    logps = _suiting(name, random_record(200))
    ours, independent = catalogue.pair_loss(name, PARAMETERS[name])
    assert ours(logps).shape == (200,)
    torch.testing.assert_close(ours(logps), independent(logps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("answer", ["chosen", "rejected"])
@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_a_loss_and_its_gradient_stay_finite_at_the_extremes(name: str, answer: str, value: float) -> None:
    policy = {"chosen": torch.zeros(1), "rejected": torch.zeros(1)} | {answer: torch.tensor([value])}
    for side in policy.values():
        side.requires_grad_()
    zero = torch.zeros(1)
    ours, independent = catalogue.pair_loss(name, PARAMETERS[name])
    logps = PairLogps(policy["chosen"], policy["rejected"], zero, zero, ONE, ONE, extras=NUMBERS)
    logps = _suiting(name, with_tokens(logps))
    loss = ours(logps).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(independent(logps).item(), rel=1e-5, abs=1e-5)
    for side in policy.values():
        assert side.grad is None or torch.isfinite(side.grad).all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_gradient_equals_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    ours, _ = catalogue.pair_loss(name, PARAMETERS[name])
    reference = [torch.tensor([-3.0, -4.0], dtype=torch.float64), torch.tensor([-5.0, -2.0], dtype=torch.float64)]
    lengths = [torch.tensor([2, 3]), torch.tensor([4, 5])]
    policy = [
        torch.tensor([-2.5, -4.4], dtype=torch.float64, requires_grad=True),
        torch.tensor([-5.5, -1.4], dtype=torch.float64, requires_grad=True),
    ]
    extras = extras_of(2)

    def costs(chosen: Tensor, rejected: Tensor) -> Tensor:
        return ours(_suiting(name, with_tokens(PairLogps(chosen, rejected, *reference, *lengths, extras=extras))))

    assert torch.autograd.gradcheck(costs, policy)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_loss_declares_whether_its_costs_belong_to_single_pairs(name: str) -> None:
    torch.manual_seed(2)
    logps, order = _unweighted(random_record(8)), torch.randperm(8)
    for loss in catalogue.pair_loss(name, PARAMETERS[name]):
        follows = torch.allclose(loss(taken(logps, order)), loss(logps)[order])
        assert follows is traits_of(catalogue.LOSSES[name]).per_pair


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_loss_declares_whether_a_pairs_cost_depends_on_those_beside_it(name: str) -> None:
    torch.manual_seed(2)
    logps = _unweighted(random_record(8))
    for loss in catalogue.pair_loss(name, PARAMETERS[name]):
        alone = torch.cat([loss(taken(logps, place[None])) for place in torch.arange(8)])
        assert torch.allclose(loss(logps), alone) is traits_of(catalogue.LOSSES[name]).accumulates


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_mean_cost_of_a_batch_does_not_depend_on_the_order_of_its_pairs(name: str) -> None:
    torch.manual_seed(2)
    logps, order = _unweighted(random_record(8)), torch.randperm(8)
    for loss in catalogue.pair_loss(name, PARAMETERS[name]):
        torch.testing.assert_close(loss(taken(logps, order)).mean(), loss(logps).mean())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_loss_declares_whether_its_gradient_depends_on_how_pairs_fall_into_micro_batches(name: str) -> None:
    torch.manual_seed(2)
    logps = _unweighted(random_record(8))
    ours, _ = catalogue.pair_loss(name, PARAMETERS[name])

    def gradient(*batches: Tensor) -> Tensor:
        policy = [logps.policy_chosen.clone().requires_grad_(), logps.policy_rejected.clone().requires_grad_()]
        followed = replace(logps, policy_chosen=policy[0], policy_rejected=policy[1])
        mean = sum(ours(taken(followed, places)).mean() for places in batches) / len(batches)
        found = torch.autograd.grad(mean, policy, allow_unused=True)
        return torch.stack([torch.zeros(8) if each is None else each for each in found])

    whole, halves = gradient(torch.arange(8)), gradient(torch.arange(4), torch.arange(4, 8))
    assert torch.allclose(whole, halves, rtol=1e-9, atol=1e-12) is traits_of(catalogue.LOSSES[name]).accumulates


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_loss_declares_what_it_reads(name: str) -> None:
    torch.manual_seed(2)
    logps, traits = _suiting(name, random_record(8)), traits_of(catalogue.LOSSES[name])
    sums = replace(logps, chosen_tokens=None, rejected_tokens=None)
    for loss in catalogue.pair_loss(name, PARAMETERS[name]):
        if traits.tokens:
            with pytest.raises(ValueError, match=r"^chosen_tokens and rejected_tokens must be set for this loss"):
                loss(sums)
        else:
            assert torch.equal(loss(sums), loss(logps))
        assert torch.equal(loss(replace(logps, running={"margin": -30.0})), loss(logps)) is not bool(traits.running)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "beta" in PARAMETERS[name]])
@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(name: str, beta: float) -> None:
    with pytest.raises(ValueError, match=r"^beta must be above 0, got "):
        catalogue.LOSSES[name](record(1.0, 0.0, probability=1.0, score=1.0), **PARAMETERS[name] | {"beta": beta})


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("beta_dpo", "alpha"),
        ("tdpo", "alpha"),
        ("odpo", "alpha"),
        ("dpop", "penalty"),
        ("rdpo", "alpha"),
        ("simpo", "gamma"),
        ("orpo", "odds_weight"),
        ("cpo", "nll_weight"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_parameter_below_zero_is_refused(name: str, parameter: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{parameter} must be at least 0, got {value}$"):
        catalogue.LOSSES[name](record(1.0, 0.0, score=1.0), **PARAMETERS[name] | {parameter: value})


@pytest.mark.parametrize("name", ["ipo", "rdpo", "simpo", "orpo", "cpo", "sft"])
def test_a_loss_that_reads_lengths_refuses_a_record_without(name: str) -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^chosen_lengths and rejected_lengths must be set for this loss, got None$"):
        catalogue.LOSSES[name](PairLogps(zero, zero, zero, zero), **PARAMETERS[name])


@pytest.mark.parametrize("name", [name for name in PARAMETERS if traits_of(catalogue.LOSSES[name]).per_pair])
def test_a_pairs_cost_is_multiplied_by_its_weight(name: str) -> None:
    for loss in catalogue.pair_loss(name, PARAMETERS[name]):
        plain = loss(record(2.0, -1.0, probability=0.7, score=2.0)).item()
        assert loss(record(2.0, -1.0, probability=0.7, score=2.0, weight=2.5)).item() == pytest.approx(2.5 * plain)
        assert loss(record(2.0, -1.0, probability=0.7, score=2.0, weight=0.0)).item() == 0
        assert loss(record(2.0, -1.0, probability=0.7, score=2.0, weight=math.nan)).item() == plain


def test_a_weight_keeps_the_type_of_the_loss() -> None:
    half = torch.zeros(1, dtype=torch.bfloat16)
    ours, _ = catalogue.pair_loss("sigmoid", {"beta": 0.1})
    assert ours(PairLogps(half, half, half, half, extras={"weight": ONE.double()})).dtype == torch.bfloat16


def test_a_weighted_mean_has_one_gradient_however_the_pairs_fall_into_micro_batches() -> None:
    ours, _ = catalogue.pair_loss("sigmoid", {"beta": 0.1})
    zero = torch.zeros(2)
    weights = torch.tensor([1.0, 3.0])

    def gradient(*batches: slice) -> Tensor:
        chosen = torch.zeros(2, requires_grad=True)
        for part in batches:
            extras = {"weight": weights[part]}
            mean = ours(PairLogps(chosen[part], zero[part], zero[part], zero[part], extras=extras)).mean()
            (mean / len(batches)).backward()
        assert chosen.grad is not None
        return chosen.grad

    # d/dc of -log sigma(0.1 c) at 0 is -0.05: times the weight, over the two pairs.
    expected = torch.tensor([-0.025, -0.075])
    torch.testing.assert_close(gradient(slice(0, 2)), expected)
    torch.testing.assert_close(gradient(slice(0, 1), slice(1, 2)), expected)


def test_a_weight_below_zero_is_refused() -> None:
    ours, _ = catalogue.pair_loss("sigmoid", {"beta": 0.1})
    with pytest.raises(ValueError, match=r"^weight must be at least 0, got -0\.5$"):
        ours(record(1.0, 0.0, weight=-0.5))


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_a_weight_is_refused_by_a_loss_whose_costs_belong_to_no_single_pair(name: str) -> None:
    ours, _ = catalogue.pair_loss(name, PARAMETERS[name])
    with pytest.raises(ValueError, match=r"^weight must be left out for a loss whose costs belong to no single pair"):
        ours(record(1.0, 0.0, weight=2.0))
    assert ours(record(1.0, 0.0, weight=math.nan)).shape == (1,)


def _suiting(name: str, logps: PairLogps) -> PairLogps:
    """The same pairs, with a weight only where the costs of the loss are those of single pairs."""
    return logps if traits_of(catalogue.LOSSES[name]).per_pair else _unweighted(logps)


def _unweighted(logps: PairLogps) -> PairLogps:
    """The same pairs, each of which counts once: a weight stands at a place, and not every loss gives costs by pair."""
    return replace(logps, extras={name: numbers for name, numbers in logps.extras.items() if name != "weight"})
