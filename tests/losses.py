"""Records of pairs for the tests of losses, and parameters for every loss."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps

# Of each loss, parameters that tell it apart from every other.
PARAMETERS: dict[str, dict[str, float]] = {
    "sigmoid": {"beta": 0.3, "label_smoothing": 0.1},
    "ipo": {"beta": 0.3},
    "hinge": {"beta": 0.3},
    "robust": {"beta": 0.3, "label_smoothing": 0.2},
    "exo_pair": {"beta": 0.3, "label_smoothing": 0.05},
    "discopop": {"beta": 0.3, "tau": 0.2},
    "sigmoid_norm": {"beta": 2.5},
    "nca_pair": {"beta": 0.3},
    "bco_pair": {"beta": 0.3},
    "sppo_hard": {"beta": 0.3},
    "apo_zero": {"beta": 0.3},
    "apo_down": {"beta": 0.3},
    "soft": {"beta": 0.3},
    "odpo": {"beta": 0.3, "alpha": 0.7},
    "dpop": {"beta": 0.3, "penalty": 3.0},
    "rdpo": {"beta": 0.3, "alpha": 0.2},
    "cal_dpo": {"beta": 0.3},
    "ipo_sum": {"beta": 0.3},
    "simpo": {"beta": 2.5, "gamma": 0.8},
    "orpo": {"odds_weight": 0.4},
    "cpo": {"beta": 0.3, "nll_weight": 0.6},
    "aot": {"beta": 0.3, "label_smoothing": 0.1},
    "aot_unpaired": {"beta": 0.3, "label_smoothing": 0.1},
    "sft": {},
    "beta_dpo": {"beta": 0.3, "alpha": 0.02},
    "tdpo": {"beta": 0.3, "alpha": 0.5},
}


def record(
    chosen: float, rejected: float, chosen_length: int = 2, rejected_length: int = 4, **extras: float
) -> PairLogps:
    """One pair with the given log-ratios and extras: the reference's log-probabilities are -3 and -5."""
    pair = PairLogps(
        torch.tensor([chosen - 3.0], dtype=torch.float64),
        torch.tensor([rejected - 5.0], dtype=torch.float64),
        torch.tensor([-3.0], dtype=torch.float64),
        torch.tensor([-5.0], dtype=torch.float64),
        torch.tensor([chosen_length]),
        torch.tensor([rejected_length]),
        extras={name: torch.tensor([value], dtype=torch.float64) for name, value in extras.items()},
    )
    return with_tokens(pair)


def with_tokens(pairs: PairLogps) -> PairLogps:
    """The same pairs with values at each token that add up to their sums; those of rejected diverge more."""
    sides = [
        _tokens(pairs.policy_chosen, pairs.reference_chosen, pairs.lengths()[0], 0.1),
        _tokens(pairs.policy_rejected, pairs.reference_rejected, pairs.lengths()[1], 0.3),
    ]
    return replace(pairs, chosen_tokens=sides[0], rejected_tokens=sides[1])


def extras_of(count: int) -> dict[str, Tensor]:
    """Numbers that suit every loss, drawn at random; every fifth pair carries none."""
    drawn = {
        "probability": torch.rand(count, dtype=torch.float64),
        "score": torch.rand(count, dtype=torch.float64) * 5 + 0.01,
        "weight": torch.rand(count, dtype=torch.float64) * 3,
    }
    absent = torch.arange(count) % 5 == 4
    return {name: torch.where(absent, torch.nan, values) for name, values in drawn.items()}


def random_record(count: int) -> PairLogps:
    """Pairs drawn at random, some of whose log-probabilities are 0 or close to it, in the course of a run."""
    values = [-(torch.rand(count, dtype=torch.float64) ** 4) * 200 for _ in range(4)]
    lengths = [torch.randint(1, 50, (count,)) for _ in range(2)]
    return with_tokens(PairLogps(*values, *lengths, extras=extras_of(count), running={"margin": 4.0}))


def taken(pairs: PairLogps, places: Tensor) -> PairLogps:
    """The pairs at these places, in this order."""
    return _each(pairs, lambda values: values[places])


def _each(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The record with every tensor in it changed."""
    if isinstance(record, Tensor):
        return change(record)
    if isinstance(record, dict):
        return {name: _each(value, change) for name, value in record.items()}
    if isinstance(record, PairLogps | TokenLogps):
        return replace(record, **{each.name: _each(getattr(record, each.name), change) for each in fields(record)})
    return record


def _tokens(policy: Tensor, reference: Tensor, lengths: Tensor, divergence: float) -> TokenLogps:
    places = torch.arange(int(lengths.max()))
    inside = places < lengths[:, None]
    shares = (inside * (1 + places % 3)).to(policy.dtype)  # unlike from token to token
    shares = shares / shares.sum(dim=1, keepdim=True)
    spread = (0.5 + places % 2 + torch.arange(len(lengths))[:, None] % 4) * inside.to(policy.dtype)
    return TokenLogps(
        policy[:, None] * shares,
        reference[:, None] * shares,
        collision=-spread,
        kl=divergence * spread,
    )
