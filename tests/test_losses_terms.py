"""Penalty terms: values worked by hand, what holds for each, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preftune.losses import terms
from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.scratch_terms import SCRATCH_TERMS
from preftune.losses.terms import TERMS
from preftune.losses.traits import traits_of
from tests.losses import random_record, record, taken, with_tokens


def test_every_term_has_its_from_scratch_side() -> None:
    assert list(TERMS) == list(SCRATCH_TERMS) == ["nll", "length", "kl"]


@pytest.mark.parametrize(
    ("term", "pair", "expected"),
    [
        # 2 - 3 = -1 over 2 tokens
        ("nll", record(2.0, -1.0), 0.5),
        ("nll", record(3.0, -1.0), 0.0),
        # margin 3, 6 tokens and 2: 3 * 4 / 8
        ("length", record(2.0, -1.0, 6, 2), 1.5),
        ("length", record(2.0, -1.0, 4, 4), 0.0),
        ("length", record(2.0, -1.0, 2, 6), 0.0),
        ("length", record(-2.0, 1.0, 6, 2), 0.0),
        # 0.1 (0.5 + 1.5) and 0.3 (0.5 + 1.5 + 0.5 + 1.5): 0.2 and 1.2
        ("kl", record(2.0, -1.0), 0.7),
    ],
)
def test_a_term_has_the_value_worked_by_hand(term: str, pair: PairLogps, expected: float) -> None:
    for one in (TERMS[term], SCRATCH_TERMS[term]):
        assert one(pair).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_equals_the_from_scratch_one_on_random_pairs_and_treats_each_alone(term: str) -> None:
    torch.manual_seed(0)
    logps, order = random_record(200), torch.randperm(200)
    scores = TERMS[term](logps)
    assert scores.shape == (200,)
    assert bool((scores >= 0).all())
    assert bool((scores > 0).any())
    torch.testing.assert_close(scores, SCRATCH_TERMS[term](logps), rtol=1e-9, atol=1e-9)
    assert traits_of(TERMS[term]).per_pair
    torch.testing.assert_close(TERMS[term](taken(logps, order)), scores[order])
    alone = torch.cat([TERMS[term](taken(logps, place[None])) for place in torch.arange(200)])
    torch.testing.assert_close(alone, scores)


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_of_a_term_equals_finite_differences(term: str) -> None:
    torch.manual_seed(1)
    logps = random_record(20)
    chosen, rejected = logps.tokens()
    assert chosen.kl is not None
    assert rejected.kl is not None
    inputs = [logps.policy_chosen, logps.policy_rejected, chosen.kl, rejected.kl]

    def scores(c: Tensor, r: Tensor, chosen_kl: Tensor, rejected_kl: Tensor) -> Tensor:
        tokens = {
            "chosen_tokens": replace(chosen, kl=chosen_kl),
            "rejected_tokens": replace(rejected, kl=rejected_kl),
        }
        return TERMS[term](replace(logps, policy_chosen=c, policy_rejected=r, **tokens))

    assert torch.autograd.gradcheck(scores, [each.clone().requires_grad_() for each in inputs])


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("logratios", [(1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4)])
def test_extreme_log_ratios_of_short_answers_score_a_finite_amount(term: str, logratios: tuple[float, float]) -> None:
    policy = [torch.tensor([number], requires_grad=True) for number in logratios]
    zero, one = torch.zeros(1), torch.ones(1)
    logps = with_tokens(PairLogps(*policy, zero, zero, 2 * one, one))
    torch.testing.assert_close(TERMS[term](logps).double(), SCRATCH_TERMS[term](logps))
    assert math.isfinite(TERMS[term](logps).item())


def test_the_length_term_rises_with_margin_and_with_length_and_is_nothing_at_the_reference() -> None:
    by_margin = [terms.length(record(margin, 0.0, 6, 2)).item() for margin in (-1.0, 0.0, 1.0, 2.0)]
    by_length = [terms.length(record(2.0, 0.0, tokens, 2)).item() for tokens in (1, 2, 3, 50)]
    assert by_margin == [0.0, 0.0, 0.5, 1.0]
    assert by_length == sorted(by_length)
    assert by_length[-1] < 2.0
    assert terms.length(record(2.0, 0.0, 6, 2).at_reference()).item() == 0.0


def test_the_divergence_is_the_same_with_the_answers_exchanged_and_nothing_at_the_reference() -> None:
    pair = record(2.0, -1.0)
    turned = replace(pair, chosen_tokens=pair.rejected_tokens, rejected_tokens=pair.chosen_tokens)
    assert terms.kl(turned).item() == pytest.approx(terms.kl(pair).item())
    assert terms.kl(pair.at_reference()).item() == 0.0


@pytest.mark.parametrize("term", ["nll", "length"])
def test_a_term_that_reads_lengths_refuses_a_record_without(term: str) -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^chosen_lengths and rejected_lengths must be set for this loss, got None$"):
        TERMS[term](PairLogps(zero, zero, zero, zero))


def test_the_divergence_refuses_a_record_without() -> None:
    bare = TokenLogps(torch.zeros(1, 1), torch.zeros(1, 1))
    pair = record(1.0, 0.0)
    with pytest.raises(ValueError, match=r"^kl must be set at each token for this loss, got None$"):
        terms.kl(replace(pair, chosen_tokens=bare, rejected_tokens=bare))
    with pytest.raises(ValueError, match=r"^chosen_tokens and rejected_tokens must be set for this loss, got None$"):
        terms.kl(replace(pair, chosen_tokens=None))
    assert traits_of(terms.kl).tokens == ("logps", "kl")
