"""Losses of the distributions at each token: values worked by hand, properties, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preftune.losses import catalogue, pairwise, token_level
from preftune.losses.logps import PairLogps, TokenLogps
from tests.losses import record


def pair(chosen_kl: Tensor, rejected_kl: Tensor, margin: float = 3.0) -> PairLogps:
    """One pair whose distributions diverge so at each token."""

    def tokens(kl: Tensor) -> TokenLogps:
        return TokenLogps(torch.zeros_like(kl), torch.zeros_like(kl), kl=kl[None])

    return replace(record(margin - 1, -1.0), chosen_tokens=tokens(chosen_kl), rejected_tokens=tokens(rejected_kl))


def nats(*values: float) -> Tensor:
    """Divergences at each token."""
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "chosen", "rejected", "expected"),
    [
        # margin 3, beta 0.5: log(1 + e^-1.5)
        (0.0, (1.0, 1.0), (3.0, 0.0, 1.0), 0.201413),
        # 0.5 (3 - 0.5 (4 - 2)) = 1
        (0.5, (1.0, 1.0), (3.0, 0.0, 1.0), 0.313262),
        # 0.5 (3 - 1.5 (4 - 2)) = 0
        (1.5, (1.0, 1.0), (3.0, 0.0, 1.0), math.log(2)),
        # the divergences the other way: 0.5 (3 + 0.5 * 2) = 2
        (0.5, (3.0, 0.0, 1.0), (1.0, 1.0), 0.126928),
    ],
)
def test_tdpo_has_the_value_worked_by_hand(
    alpha: float, chosen: tuple[float, ...], rejected: tuple[float, ...], expected: float
) -> None:
    for one in catalogue.pair_loss("tdpo", {"beta": 0.5, "alpha": alpha}):
        assert one(pair(nats(*chosen), nats(*rejected))).item() == pytest.approx(expected, abs=1e-6)


def test_tdpo_rises_with_the_divergence_along_rejected_and_falls_with_that_along_chosen() -> None:
    rising = [token_level.tdpo(pair(nats(1.0), nats(d)), beta=0.5, alpha=0.5).item() for d in (0.0, 0.1, 1.0, 9.0)]
    falling = [token_level.tdpo(pair(nats(d), nats(1.0)), beta=0.5, alpha=0.5).item() for d in (0.0, 0.1, 1.0, 9.0)]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rising[0] < rising[1]
    assert falling[1] < falling[0]


def test_tdpo_lowers_the_divergence_along_rejected_and_leaves_that_along_chosen_alone() -> None:
    chosen, rejected = nats(1.0, 1.0).requires_grad_(), nats(3.0, 0.0, 1.0).requires_grad_()
    for loss in catalogue.pair_loss("tdpo", {"beta": 0.5, "alpha": 0.5}):
        gradients = torch.autograd.grad(loss(pair(chosen, rejected)).sum(), (chosen, rejected), allow_unused=True)
        # beta alpha sigma(-1) = 0.25 * 0.268941
        assert gradients[0] is None
        assert gradients[1].tolist() == pytest.approx([0.067235] * 3, abs=1e-6)


def test_where_both_answers_diverge_alike_tdpo_is_dpo() -> None:
    alike = pair(nats(2.0, 1.0), nats(0.5, 0.5, 2.0))
    torch.testing.assert_close(token_level.tdpo(alike, beta=0.5, alpha=0.7), pairwise.sigmoid(alike, beta=0.5))
    start = pair(nats(2.0), nats(9.0)).at_reference()
    assert token_level.tdpo(start, beta=0.5, alpha=0.7).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("divergence", [0.0, 1e4])
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_extreme_divergences_cost_a_finite_amount(divergence: float, margin: float) -> None:
    rejected = nats(divergence).requires_grad_()
    extreme = pair(nats(1e4 - divergence), rejected, margin)
    ours, independent = catalogue.pair_loss("tdpo", {"beta": 0.5, "alpha": 0.5})
    (gradient,) = torch.autograd.grad(ours(extreme).sum(), rejected)
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(ours(extreme), independent(extreme))


def test_tdpo_without_divergences_is_refused() -> None:
    bare = TokenLogps(torch.zeros(1, 1), torch.zeros(1, 1))
    without = replace(record(1.0, 0.0), chosen_tokens=bare, rejected_tokens=bare)
    with pytest.raises(ValueError, match=r"^kl must be set at each token for this loss, got None$"):
        token_level.tdpo(without, beta=0.1, alpha=0.5)
