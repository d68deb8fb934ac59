"""The battery: one broken loss for each property, refused with its numbers, and sound ones that pass."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.losses.catalogue import LOSSES
from preftune.losses.plugins import check_loss
from preftune.losses.traits import declares
from preftune.losses.trials import AnyNumbers, TrialPairs
from preftune.plugins import function_at, source_file
from preftune.refusals import Refusal
from tests.losses import PARAMETERS

OWN = '''
"""DPO whose pairs count by how sure the labeller was, and an answer that may do no harm."""

import torch
import torch.nn.functional as F

from preftune.losses.logps import PairLogps


def careful(logps: PairLogps, *, beta: float, limit: float = 0.5) -> torch.Tensor:
    """DPO weighted by `sure`, and the probability of an answer beyond a limit of harm."""
    harm = torch.relu(logps.extras["harm"] - limit)
    cost = -F.logsigmoid(beta * logps.margin()) * logps.extras["sure"]
    return cost + harm * logps.policy_chosen.exp()
'''
WEIGHT = torch.tensor([0.5], requires_grad=True)
CALLS: list[int] = []


def margin(logps, **parameters):
    return -0.1 * logps.margin()


def refusal(function: Any, key: str = "loss.name", **parameters: Any) -> str:
    with pytest.raises(Refusal) as error:
        check_loss(function, parameters, f"own.{function.__name__}", key)
    return str(error.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "own_package" / "inner.py").write_text(OWN)
    (tmp_path / "own_losses.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_catalogue_passes(name: str) -> None:
    check_loss(LOSSES[name], PARAMETERS[name], name)


def test_a_loss_of_ones_own_in_a_short_file_passes(package: Path) -> None:
    loss = function_at("own_losses.careful", "loss.name")
    check_loss(loss, {"beta": 0.1}, "own_losses.careful")
    assert len(OWN.strip().splitlines()) <= 15


def test_a_module_that_is_not_there_is_refused_under_the_key_it_was_given_for(package: Path) -> None:
    with pytest.raises(Refusal, match=r"^loss\.terms\.harm must name a function of a module .*'no_such\.loss'"):
        function_at("no_such.loss", "loss.terms.harm")
    with pytest.raises(Refusal) as error:
        function_at("own_losses.carefull", "loss.name")
    assert str(error.value) == ("loss.name must name a function of own_losses, got 'carefull'; did you mean careful?")


def test_the_file_behind_a_path_is_found_without_importing_anything(package: Path) -> None:
    assert source_file("own_losses.careful") == package / "own_losses.py"
    assert source_file("own_package.inner.careful") == package / "own_package" / "inner.py"
    assert source_file("own_package.missing.careful") is None
    assert source_file("no_such.careful") is None
    assert source_file("sys.exit") is None
    assert source_file("careful") is None
    assert "own_package" not in sys.modules
    assert "own_losses" not in sys.modules


def test_wrong_parameters_are_named_all_at_once() -> None:
    def tilted(logps, *, beta, gamma, tau=1.0):
        return -beta * logps.margin()

    assert refusal(tilted, beta=0.1, gama=2, taus=3).splitlines() == [
        "loss.name must be given each parameter that has no default, got no gamma for "
        "own.tilted(logps, *, beta, gamma, tau=1.0)",
        "loss.name must take each parameter given, got gama for own.tilted(logps, *, beta, gamma, tau=1.0); "
        "did you mean gamma?",
        "loss.name must take each parameter given, got taus for own.tilted(logps, *, beta, gamma, tau=1.0); "
        "did you mean tau?",
    ]
    check_loss(margin, {"anything": 1}, "own.margin")


def test_a_function_of_no_pairs_is_refused() -> None:
    def alone(*, beta):
        return beta

    assert refusal(alone, beta=1) == (
        "loss.name must take the log-probabilities of pairs as its first argument, got own.alone(*, beta)"
    )


def raises(logps):
    raise ValueError("beta must be above 0, got -1")


def asserts(logps):
    raise AssertionError("no margin may be above 0")


def listed(logps):
    return [0.0] * 8


def mean(logps):
    return -logps.margin().mean()


def counted(logps):
    return (logps.margin() > 0).long()


def exponential(logps):
    return torch.exp(-logps.margin())


def rooted(logps):
    return logps.policy_chosen.sub(logps.reference_chosen).abs().sqrt()


def constant(logps):
    return logps.reference_chosen - logps.reference_rejected


def cut(logps):
    return logps.detach().margin()


def learned(logps):
    return -WEIGHT * logps.margin()


def clamped(logps):
    logps.reference_chosen.clamp_(min=-20)
    return -logps.margin()


def scaled(logps):
    logps.extras["harm"].mul_(2)
    return -logps.margin()


def undone(logps):
    odds = logps.policy_chosen.exp()
    cost = odds * odds
    odds.add_(1)
    return cost


def random(logps):
    return -logps.margin() * torch.rand(8)[: len(logps.margin())]


def remembers(logps):
    CALLS.append(1)
    return -logps.margin() * len(CALLS)


def ranked(logps):
    return -0.1 * logps.margin() * torch.arange(len(logps.margin()))


def leaking(logps):
    beside = torch.tanh(logps.margin().mean())
    return -logps.margin() + beside - beside.detach()


def centred(logps):
    return -torch.tanh(logps.margin() - logps.margin().mean().detach())


@declares(tokens=("logps",))
def padded(logps):
    return -logps.tokens()[0].policy.mean(1)


def normalised(logps):
    return -logps.margin() / logps.margin().abs().mean().detach().clamp(min=1)


@declares(accumulates=False)
def declared(logps):
    return -logps.margin() / logps.margin().abs().mean().detach().clamp(min=1)


@declares(accumulates=False)
def standardised(logps):
    away = logps.margin() - logps.margin().mean()
    return -logps.margin() / (1 + away.square().sum() / (len(away) - 1))


def tokenwise(logps):
    return -logps.tokens()[0].policy.sum(1)


@pytest.mark.parametrize(
    ("function", "faults"),
    [
        (
            raises,
            "take ordinary pairs, got ValueError from own.raises: beta must be above 0, got -1",
        ),
        (
            asserts,
            "take ordinary pairs, got AssertionError from own.asserts: no margin may be above 0",
        ),
        (
            tokenwise,
            "take ordinary pairs, got ValueError from own.tokenwise: chosen_tokens and rejected_tokens must "
            "be set for this loss, got None",
        ),
        (
            listed,
            "return a Tensor, got a value of type list from own.listed",
        ),
        (
            mean,
            "return one cost a pair, of shape (8,), got shape () from own.mean",
        ),
        (
            counted,
            "return floating-point numbers, got torch.int64 from own.counted",
        ),
        (
            exponential,
            "give finite costs at chosen answers 10,000 nats below their reference, got inf for pair 0 from "
            "own.exponential",
        ),
        (
            rooted,
            "give a finite gradient at a policy equal to its reference, got nan for pair 0 from own.rooted",
        ),
        (
            constant,
            "send gradient to the policy's log-probabilities, got 0 at 48 pairs from own.constant",
        ),
        (
            cut,
            "send gradient to the policy's log-probabilities, got 0 at 48 pairs from own.cut",
        ),
        (
            learned,
            "send gradient to the policy's log-probabilities alone, got another tensor that needs it, of "
            "shape (1,), from own.learned",
        ),
        (
            clamped,
            "leave its inputs as they are, got a change of 31.2544 in reference_chosen from own.clamped",
        ),
        (
            scaled,
            "leave its inputs as they are, got a change of 0.89602 in extras['harm'] from own.scaled",
        ),
        (
            standardised,
            "give finite costs in a batch of one pair, got nan for pair 0 from own.standardised",
        ),
        (
            random,
            "give the same costs when it is called again, got 5.31625 and then 2.58658 for pair 7 from own.random",
        ),
        (
            remembers,
            "give the same costs when it is called again, got 65.3249 and then 73.4905 for pair 7 from own.remembers",
        ),
        (
            ranked,
            "give a pair the same cost in any order of the pairs, got 5.71593 and 3.26624 for pair 7 from "
            "own.ranked; or declare per_pair=False\n"
            "give a pair the same cost beside any others, got 5.71593 and 2.44968 for pair 7 from "
            "own.ranked; or declare accumulates=False",
        ),
        (
            centred,
            "give a pair the same cost beside any others, got 0.558583 and 0.360126 for pair 6 from "
            "own.centred; or declare accumulates=False",
        ),
        (
            padded,
            "give a pair the same cost beside any others, got 0.222327 and 1.51182 for pair 3 from "
            "own.padded; or declare accumulates=False",
        ),
        (
            leaking,
            "give halves of a batch the gradient of the whole, got -0.489185 and -1.24857 for pair 7 from "
            "own.leaking; or declare accumulates=False",
        ),
        (
            normalised,
            "give a pair the same cost beside any others, got 3.03205 and 2.05796 for pair 7 from "
            "own.normalised; or declare accumulates=False",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_property_that_fails_is_told_with_its_numbers(function: Any, faults: str) -> None:
    CALLS.clear()
    torch.manual_seed(0)
    told = "".join(f"loss.terms.own must {fault}" for fault in faults.splitlines(keepends=True))
    assert refusal(function, "loss.terms.own") == told


def test_a_loss_without_a_gradient_is_refused() -> None:
    assert refusal(undone).startswith("loss.name must have a gradient, got RuntimeError from own.undone: one of ")


def test_a_loss_that_declares_what_it_lacks_passes() -> None:
    check_loss(declared, {}, "own.declared")


def test_the_battery_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    refusal(random)
    assert torch.equal(torch.rand(3), expected)


def test_a_penalty_that_is_zero_on_ordinary_pairs_passes() -> None:
    def budget(logps, *, limit):
        return torch.relu(-logps.chosen_logratio() - limit)

    check_loss(budget, {"limit": 500.0}, "own.budget", "loss.terms.budget")


def test_a_record_carries_what_the_loss_declares_and_no_more() -> None:
    plain = TrialPairs(declares()(margin).traits).record()
    assert plain.chosen_tokens is None
    assert plain.running == {}
    asking = declares(tokens=("collision", "kl"), running=("margin",))(lambda logps: logps)
    record = TrialPairs(asking.traits).record(torch.tensor([2, 0]))
    assert record.running == {"margin": 2.0}
    for tokens, sums in (
        (record.chosen_tokens, record.policy_chosen),
        (record.rejected_tokens, record.policy_rejected),
    ):
        torch.testing.assert_close(tokens.policy.sum(1), sums)
        assert (tokens.collision <= 0).all()
        assert not tokens.collision.requires_grad
        assert (tokens.kl >= 0).all()
        assert tokens.kl.requires_grad
    assert record.chosen_tokens.policy.shape == (2, 3)
    assert TrialPairs(asking.traits, noise=0).record().running == {}


def test_extras_hold_a_number_for_any_name() -> None:
    extras = AnyNumbers(torch.arange(8))
    for name in ("probability", "harm"):
        assert name in extras
        assert ((extras[name] > 0) & (extras[name] < 1)).all()
    assert not torch.equal(extras["probability"], extras["harm"])
    assert (extras["score"] > 0).all()
    torch.testing.assert_close(extras["score"], extras["score_chosen"] - extras["score_rejected"])
    assert torch.equal(AnyNumbers(torch.tensor([3]))["harm"], extras["harm"][3:4])
