"""Losses whose costs depend on the rest of the batch: values worked by hand, properties, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from preftune.losses import catalogue, over_batch, pairwise
from preftune.losses.logps import PairLogps

LOG_2, LOG_3, LOG_4 = math.log(2), math.log(3), math.log(4)


def batch(
    policy: list[tuple[float, float]], reference: list[tuple[float, float]], running: float | None = None
) -> PairLogps:
    """Pairs with these log-probabilities of chosen and rejected; chosen answers of 3 tokens, 1, 3, 1, ..."""
    columns = [torch.tensor(column, dtype=torch.float64) for column in (*zip(*policy, strict=True),)]
    columns += [torch.tensor(column, dtype=torch.float64) for column in (*zip(*reference, strict=True),)]
    chosen_lengths = 3 - 2 * (torch.arange(len(policy)) % 2)
    past = {} if running is None else {"margin": running}
    return PairLogps(*columns, chosen_lengths, torch.full((len(policy),), 5), running=past)


# The policy's margins are 2 and 0, the reference's 0 and 3: in order 0, 2 and 0, 3. The log-ratios of chosen are 1 and
# -2, those of rejected -1 and 1: in order -2, 1 and -1, 1.
TWO = batch([(-1, -3), (-4, -4)], [(-2, -2), (-2, -5)])


@pytest.mark.parametrize(
    ("loss", "parameters", "pairs", "expected"),
    [
        # gaps 0 and -1, beta log 3: log 2 and log(1 + 3)
        ("aot", {"beta": LOG_3}, TWO, (LOG_2, LOG_4)),
        # 3/4 log 4 + 1/4 log(4/3) = 1.039721 + 0.071921
        ("aot", {"beta": LOG_3, "label_smoothing": 0.25}, TWO, (LOG_2, 1.111641)),
        # gaps -1 and 0
        ("aot_unpaired", {"beta": LOG_3}, TWO, (LOG_4, LOG_2)),
        ("aot_unpaired", {"beta": LOG_3, "label_smoothing": 0.25}, TWO, (1.111641, LOG_2)),
        # 4 tokens in 2 answers: 1 * 2 / 4 and 4 * 2 / 4, whose mean is 5 nats over 4 tokens
        ("sft", {}, TWO, (0.5, 2.0)),
        # margins 2 and 4, before the first step: log(1 + e^-1) and log(1 + e^-2)
        ("beta_dpo", {"beta": 0.5, "alpha": 1.0}, batch([(2, 0), (4, 0)], [(0, 0), (0, 0)]), (0.313262, 0.126928)),
        # a mean of 3 where 1 is usual: beta 0.5 (1 + 0.5 * 2) = 1, log(1 + e^-2) and log(1 + e^-4)
        ("beta_dpo", {"beta": 0.5, "alpha": 1.0}, batch([(2, 0), (4, 0)], [(0, 0), (0, 0)], 1), (0.126928, 0.018150)),
        # where 101 is usual 0.5 (1 - 49) is below 0: beta 0.0005, log 2 - 0.0005 and log 2 - 0.001
        ("beta_dpo", {"beta": 0.5, "alpha": 1.0}, batch([(2, 0), (4, 0)], [(0, 0), (0, 0)], 101), (0.692647, 0.692148)),
    ],
)
def test_a_loss_has_the_values_worked_by_hand(
    loss: str, parameters: dict[str, float], pairs: PairLogps, expected: tuple[float, float]
) -> None:
    for one in catalogue.pair_loss(loss, parameters):
        assert one(pairs).tolist() == pytest.approx(expected, abs=1e-6)


def _random(count: int, running: float | None = None) -> PairLogps:
    torch.manual_seed(0)
    rows = (torch.randn(2, count, 2) * 5).tolist()
    return batch(*rows, running=running)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_on_a_batch_of_one_pair_optimal_transport_is_dpo(loss: str) -> None:
    pair = _random(1)
    ours, _ = catalogue.pair_loss(loss, {"beta": 0.3, "label_smoothing": 0.1})
    torch.testing.assert_close(ours(pair), pairwise.sigmoid(pair, beta=0.3, label_smoothing=0.1))


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_optimal_transport_costs_log_two_at_the_reference_and_never_more_as_a_chosen_answer_rises(loss: str) -> None:
    pairs = _random(7)
    ours, _ = catalogue.pair_loss(loss, {"beta": 0.3})
    torch.testing.assert_close(ours(pairs.at_reference()), torch.full((7,), LOG_2, dtype=torch.float64))
    means = [ours(_raised(pairs, nats)).mean().item() for nats in range(-20, 21)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


def _raised(pairs: PairLogps, nats: float) -> PairLogps:
    third = torch.arange(7) == 3
    references = pairs.reference_chosen, pairs.reference_rejected
    return PairLogps(pairs.policy_chosen + nats * third, pairs.policy_rejected, *references)


def test_paired_transport_does_not_ask_which_pair_holds_a_margin_and_unpaired_which_answers_are_paired() -> None:
    pairs, order = _random(7), torch.randperm(7)
    c, r, ref_c, ref_r = pairs.policy_chosen, pairs.policy_rejected, pairs.reference_chosen, pairs.reference_rejected
    elsewhere = PairLogps(c[order], r[order], ref_c, ref_r)
    torch.testing.assert_close(over_batch.aot(elsewhere, beta=0.3), over_batch.aot(pairs, beta=0.3))
    mixed = PairLogps(c, r[order], ref_c, ref_r[order])
    torch.testing.assert_close(over_batch.aot_unpaired(mixed, beta=0.3), over_batch.aot_unpaired(pairs, beta=0.3))
    assert not torch.allclose(over_batch.aot(mixed, beta=0.3), over_batch.aot(pairs, beta=0.3))


def test_sft_averages_to_the_mean_over_the_tokens_of_chosen_and_reads_nothing_else() -> None:
    pairs = _random(7)
    # lengths 3, 1, 3, 1, 3, 1, 3
    assert over_batch.sft(pairs).mean().item() == pytest.approx(-pairs.policy_chosen.sum().item() / 15)
    others = PairLogps(pairs.policy_chosen, *[torch.randn(7)] * 3, *pairs.lengths())
    assert over_batch.sft(others).equal(over_batch.sft(pairs))


def test_beta_dpo_has_the_gradient_of_dpo_with_the_beta_of_the_batch() -> None:
    policy = torch.tensor([2.0, 4.0, -3.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    pairs = PairLogps(policy, zero, zero, zero, running={"margin": -1.0})
    (ours,) = torch.autograd.grad(over_batch.beta_dpo(pairs, beta=0.5, alpha=0.6).sum(), policy)
    # a mean of 1 where -1 is usual: 0.5 (1 + 0.6 * 0.5 * 2)
    (dpo,) = torch.autograd.grad(pairwise.sigmoid(pairs, beta=0.8).sum(), policy)
    torch.testing.assert_close(ours, dpo)


def test_beta_dpo_costs_less_on_pairs_ranked_rightly_the_lower_the_usual_margin() -> None:
    pairs = batch([(2, 0), (4, 0)], [(0, 0), (0, 0)])
    usual = [-5.0, -1.0, 3.0, 5.0]
    costs = [
        over_batch.beta_dpo(batch([(2, 0), (4, 0)], [(0, 0), (0, 0)], each), beta=0.5, alpha=0.6).sum().item()
        for each in usual
    ]
    assert costs == sorted(costs)
    assert costs[2] == pytest.approx(pairwise.sigmoid(pairs, beta=0.5).sum().item())
    without = over_batch.beta_dpo(batch([(2, 0), (4, 0)], [(0, 0), (0, 0)], 9.0), beta=0.5, alpha=0.0)
    torch.testing.assert_close(without, pairwise.sigmoid(pairs, beta=0.5))


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        ("aot", {"beta": 0.5, "label_smoothing": 0.1}),
        ("aot_unpaired", {"beta": 0.5, "label_smoothing": 0.1}),
        ("sft", {}),
        ("beta_dpo", {"beta": 0.5, "alpha": 0.6}),
    ],
)
@pytest.mark.parametrize("usual", [-1e4, 1e4])
@pytest.mark.parametrize("extremes", [(1e4, 1e4), (1e4, -1e4), (-1e4, -1e4)])
def test_a_batch_of_extreme_margins_of_one_token_answers_costs_a_finite_amount(
    loss: str, parameters: dict[str, float], usual: float, extremes: tuple[float, float]
) -> None:
    policy = torch.tensor(extremes, requires_grad=True)
    zero, token = torch.zeros(2), torch.ones(2)
    pairs = PairLogps(policy, zero, zero, zero, token, token, running={"margin": usual})
    ours, independent = catalogue.pair_loss(loss, parameters)
    (gradient,) = torch.autograd.grad(ours(pairs).sum(), policy)
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(ours(pairs).double(), independent(pairs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [over_batch.aot, over_batch.aot_unpaired])
@pytest.mark.parametrize("share", [-0.1, 0.5, math.nan])
def test_label_smoothing_outside_its_range_is_refused(loss: Callable[..., Tensor], share: float) -> None:
    with pytest.raises(ValueError, match=rf"^label_smoothing must be at least 0 and below 0\.5, got {share}$"):
        loss(TWO, beta=0.1, label_smoothing=share)
