"""What stands between log-probabilities and a loss: values worked by hand, properties, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preftune.losses import pairwise, rewards, scratch, scratch_rewards
from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import traits_of
from tests.losses import random_record, record

LOG_3 = math.log(3)
DIVERGENCES = [
    ("reverse_kl", 0.5),
    ("forward_kl", 0.5),
    ("js_divergence", 0.5),
    ("alpha_divergence", 0.5),
    ("alpha_divergence", -1.0),
    ("alpha_divergence", 1.5),
]
SIDES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


@pytest.mark.parametrize(
    ("kind", "coefficient", "at_three", "at_a_third"),
    [
        ("reverse_kl", 0.5, 1.098612, -1.098612),
        # 1 - 1/3 and 1 - 3
        ("forward_kl", 0.5, 0.666667, -2.0),
        # log(6/4) and log(2/3 / 4/3)
        ("js_divergence", 0.5, 0.405465, -0.693147),
        # 2 (1 - 1 / sqrt 3) and 2 (1 - sqrt 3)
        ("alpha_divergence", 0.5, 0.845299, -1.464102),
        # 3 - 1 and 1/3 - 1
        ("alpha_divergence", 2.0, 2.0, -0.666667),
        ("alpha_divergence", 0.0, 0.666667, -2.0),
        ("alpha_divergence", 1.0, 1.098612, -1.098612),
    ],
)
def test_a_score_has_the_value_worked_by_hand(
    kind: str, coefficient: float, at_three: float, at_a_third: float
) -> None:
    for divergent in (rewards.divergent, scratch_rewards.divergent):
        scored = divergent(record(LOG_3, -LOG_3), f_divergence_type=kind, f_alpha_divergence_coef=coefficient)
        assert scored.chosen_logratio().item() == pytest.approx(at_three, abs=1e-6)
        assert scored.rejected_logratio().item() == pytest.approx(at_a_third, abs=1e-6)


@pytest.mark.parametrize(("kind", "coefficient"), DIVERGENCES)
def test_scores_equal_the_from_scratch_ones_on_random_pairs_and_leave_the_rest_of_the_record(
    kind: str, coefficient: float
) -> None:
    torch.manual_seed(0)
    logps = random_record(200)
    ours, independent = (
        divergent(logps, f_divergence_type=kind, f_alpha_divergence_coef=coefficient)
        for divergent in (rewards.divergent, scratch_rewards.divergent)
    )
    for side in SIDES:
        torch.testing.assert_close(getattr(ours, side), getattr(independent, side), rtol=1e-9, atol=1e-9)
    for record_of in (ours, independent):
        assert record_of.lengths() == logps.lengths()
        assert record_of.tokens() == logps.tokens()
        assert (record_of.extras, record_of.running) == (logps.extras, logps.running)


@pytest.mark.parametrize(("kind", "coefficient"), DIVERGENCES)
def test_a_score_is_zero_at_the_reference_with_slope_one_and_rises(kind: str, coefficient: float) -> None:
    logratios = torch.linspace(-9, 9, 201, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(201, dtype=torch.float64)
    scored = rewards.divergent(
        PairLogps(logratios, zero, zero, zero), f_divergence_type=kind, f_alpha_divergence_coef=coefficient
    )
    (slopes,) = torch.autograd.grad(scored.margin().sum(), logratios)
    assert scored.margin()[100].item() == pytest.approx(0.0, abs=1e-12)
    # f''(1) of js_divergence is 1/2
    assert slopes[100].item() == pytest.approx(0.5 if kind == "js_divergence" else 1.0)
    assert bool((slopes > 0).all())
    if kind == "reverse_kl":
        assert scored.margin().equal(logratios)


@pytest.mark.parametrize(("kind", "coefficient"), DIVERGENCES)
def test_the_gradient_of_a_score_equals_finite_differences(kind: str, coefficient: float) -> None:
    logps = random_record(8)

    def margins(chosen: Tensor, rejected: Tensor) -> Tensor:
        pairs = replace(logps, policy_chosen=chosen, policy_rejected=rejected)
        return rewards.divergent(pairs, f_divergence_type=kind, f_alpha_divergence_coef=coefficient).margin()

    references = logps.reference_chosen, logps.reference_rejected
    policy = [(side + torch.linspace(-3, 3, 8)).requires_grad_() for side in references]
    assert torch.autograd.gradcheck(margins, policy)


@pytest.mark.parametrize(("kind", "coefficient"), DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logratios", [(1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (79.0, -79.0)])
def test_dpo_on_the_scores_of_extreme_log_ratios_costs_a_finite_amount(
    kind: str, coefficient: float, dtype: torch.dtype, logratios: tuple[float, float]
) -> None:
    policy = [torch.tensor([number], dtype=dtype, requires_grad=True) for number in logratios]
    zero = torch.zeros(1, dtype=dtype)
    pair = PairLogps(*policy, zero, zero)
    scored = rewards.divergent(pair, f_divergence_type=kind, f_alpha_divergence_coef=coefficient)
    expected = scratch_rewards.divergent(pair, f_divergence_type=kind, f_alpha_divergence_coef=coefficient)
    cost = pairwise.sigmoid(scored, beta=0.1)
    assert bool(cost.isfinite())
    torch.testing.assert_close(cost.double(), scratch.sigmoid(expected, beta=0.1), rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(cost.sum(), policy)
    assert all(bool(each.isfinite()) for each in gradients)


def test_a_divergence_of_no_known_name_is_refused() -> None:
    names = "reverse_kl, forward_kl, js_divergence, alpha_divergence"
    with pytest.raises(ValueError, match=rf"^f_divergence_type must be one of {names}, got hellinger$"):
        rewards.divergent(record(1.0, 0.0), f_divergence_type="hellinger")


@pytest.mark.parametrize("coefficient", [math.nan, math.inf])
def test_a_coefficient_that_is_no_finite_number_is_refused(coefficient: float) -> None:
    with pytest.raises(ValueError, match=rf"^f_alpha_divergence_coef must be a finite number, got {coefficient}$"):
        rewards.divergent(record(1.0, 0.0), f_divergence_type="alpha_divergence", f_alpha_divergence_coef=coefficient)


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def ragged() -> PairLogps:
    """Two pairs: chosen has 3 tokens and 1, rejected 1 and 2; each of the reference has -1 nat."""
    chosen = TokenLogps(_rows((-1, -2, -4), (-5, 0, 0)), _rows((-1, -1, -1), (-1, 0, 0)))
    rejected = TokenLogps(_rows((-3, 0), (-6, -7)), _rows((-1, 0), (-1, -1)))
    sums = [each.sum(dim=1) for each in (chosen.policy, rejected.policy, chosen.reference, rejected.reference)]
    lengths = torch.tensor([3, 1]), torch.tensor([1, 2])
    return PairLogps(*sums, *lengths, chosen_tokens=chosen, rejected_tokens=rejected)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, ((-7, -5), (-3, -13), (-3, -1), (-1, -2))),
        # beyond one token: -1 - 6/2, and -6 - 7/2; -1 - 2/2, and -1 - 1/2
        (0.5, ((-4, -5), (-3, -9.5), (-2, -1), (-1, -1.5))),
        (0.0, ((-1, -5), (-3, -6), (-1, -1), (-1, -1))),
    ],
)
def test_tokens_beyond_the_shorter_answer_count_the_share_given(
    share: float, expected: tuple[tuple[float, float], ...]
) -> None:
    for desensitized in (rewards.desensitized, scratch_rewards.desensitized):
        pairs = desensitized(ragged(), ld_alpha=share)
        assert [tuple(getattr(pairs, side).tolist()) for side in SIDES] == list(expected)
        assert pairs.lengths()[0].tolist() == [3, 1]


def test_desensitized_sums_equal_the_from_scratch_ones_and_at_one_those_of_the_record() -> None:
    torch.manual_seed(0)
    logps = random_record(200)
    ours, independent = (each.desensitized(logps, ld_alpha=0.3) for each in (rewards, scratch_rewards))
    whole = rewards.desensitized(logps, ld_alpha=1.0)
    for side in SIDES:
        torch.testing.assert_close(getattr(ours, side), getattr(independent, side), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(getattr(whole, side), getattr(logps, side))
        assert bool((getattr(ours, side) >= getattr(logps, side) - 1e-9).all())
    assert (ours.tokens(), ours.extras, ours.running) == (logps.tokens(), logps.extras, logps.running)


def test_a_token_beyond_the_shorter_answer_moves_the_policy_by_its_share() -> None:
    pairs = ragged()
    policy = pairs.tokens()[0].policy.clone().requires_grad_()
    followed = replace(pairs, chosen_tokens=replace(pairs.tokens()[0], policy=policy))
    (gradient,) = torch.autograd.grad(rewards.desensitized(followed, ld_alpha=0.25).margin().sum(), policy)
    assert gradient[0].tolist() == [1.0, 0.25, 0.25]


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_of_the_longer_answers_end_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^ld_alpha must be from 0 to 1, got {share}$"):
        rewards.desensitized(ragged(), ld_alpha=share)


def weighed(chosen: Tensor, rejected: Tensor, chosen_collision: Tensor, rejected_collision: Tensor) -> PairLogps:
    """One pair with these log-probabilities of tokens and these collisions."""
    tokens = [
        TokenLogps(logps[None], logps[None], collision=collision[None])
        for logps, collision in ((chosen, chosen_collision), (rejected, rejected_collision))
    ]
    pair = record(0.0, 0.0, len(chosen), len(rejected))
    return replace(pair, chosen_tokens=tokens[0], rejected_tokens=tokens[1])


def test_the_weight_of_a_pair_is_the_one_worked_by_hand_and_has_no_gradient() -> None:
    chosen = torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True).log()
    rejected = torch.tensor([0.8], dtype=torch.float64, requires_grad=True).log()
    # 1/2 of collision 1/2 and 1/4 of it: sqrt(1 * 1/2); 0.8 among 0.8 and 0.2: 0.8 / 0.68
    pair = weighed(chosen, rejected, torch.tensor([0.5, 0.5]).log(), torch.tensor([0.68]).log())
    for weight in (rewards.wpo_weight(pair), scratch_rewards.wpo_weight(pair)):
        assert weight.tolist() == pytest.approx([math.sqrt(0.5) * 0.8 / 0.68], abs=1e-6)
        assert not weight.requires_grad


def test_weights_equal_the_from_scratch_ones_and_rise_with_each_answers_likelihood() -> None:
    torch.manual_seed(0)
    logps = random_record(200)
    weights = rewards.wpo_weight(logps)
    assert weights.shape == (200,)
    torch.testing.assert_close(weights, scratch_rewards.wpo_weight(logps), rtol=1e-9, atol=1e-12)
    one = torch.zeros(1, dtype=torch.float64)
    by_chosen = [rewards.wpo_weight(weighed(one - nats, one, one, one)).item() for nats in (0.0, 0.5, 2.0, 1e4)]
    by_rejected = [rewards.wpo_weight(weighed(one, one - nats, one, one)).item() for nats in (0.0, 0.5, 2.0, 1e4)]
    assert by_chosen == by_rejected == sorted(by_chosen, reverse=True)
    assert (by_chosen[0], by_chosen[-1]) == (1.0, 0.0)


def test_an_answer_weighs_most_where_its_token_stands_out_from_an_even_rest() -> None:
    # of 16 tokens one has 1/4 and each other 1/20: 0.25 / 0.1 = (1 + sqrt 16) / 2
    logits = torch.full((1, 2, 16), 0.05).log()
    logits[:, :, 3] = math.log(0.25)
    tokens = scratch.token_values(logits, logits, torch.tensor([[0, 3]]), torch.tensor([[0, 1]]))
    sure = TokenLogps(torch.zeros(1, 1), torch.zeros(1, 1), collision=torch.zeros(1, 1))
    pair = replace(record(0.0, 0.0, 1, 1), chosen_tokens=tokens, rejected_tokens=sure)
    assert rewards.wpo_weight(pair).item() == pytest.approx(2.5, abs=1e-6)
    for probability in (0.15, 0.2, 0.3, 0.5, 0.9):
        rest = 15 * ((1 - probability) / 15) ** 2
        assert probability / (probability**2 + rest) < 2.5


def test_what_reads_values_at_each_token_refuses_a_record_without_and_says_so_of_itself() -> None:
    refused = "must be set for this loss, got None$"
    bare, unmeasured = replace(ragged(), chosen_tokens=None), replace(ragged(), chosen_lengths=None)
    for asks in (lambda pairs: rewards.desensitized(pairs, ld_alpha=0.5), rewards.wpo_weight):
        with pytest.raises(ValueError, match=rf"^chosen_tokens and rejected_tokens {refused}"):
            asks(bare)
        with pytest.raises(ValueError, match=rf"^chosen_lengths and rejected_lengths {refused}"):
            asks(unmeasured)
    with pytest.raises(ValueError, match=r"^collision must be set at each token for this weight, got None$"):
        rewards.wpo_weight(ragged())
    assert traits_of(rewards.desensitized).tokens == ("logps",)
    assert traits_of(rewards.wpo_weight).tokens == ("logps", "collision")
    assert traits_of(rewards.divergent).tokens == ()
