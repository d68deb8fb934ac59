"""Pairs made up to try a loss on: the same each time, and no draw from the global generator."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import Traits

# Tokens of the answers of each pair: lengths of one, and halves of a batch that are not as wide as the whole.
CHOSEN_LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)
REJECTED_LENGTHS = (4, 1, 9, 2, 27, 6, 16, 11)
PAIRS = len(CHOSEN_LENGTHS)


class AnyNumbers(Mapping[str, Tensor]):
    """A pair's extras that hold a number for every name that is asked for, in float64, of shape `(B,)`.

    `probability` and any name that is not known here lie in (0, 1), `weight` in (0, 3), scores in (0, 10), that of
    chosen above that of rejected. What a data set carries is not known before it is loaded.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self._asked: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._asked:
            self._asked[name] = _numbers(name)[self._rows]
        return self._asked[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._asked))

    def __len__(self) -> int:
        return len(self._asked)


def _numbers(name: str) -> Tensor:
    if name == "score":
        return _numbers("score_chosen") - _numbers("score_rejected")
    least, most = {"weight": (0.0, 3.0), "score_chosen": (6.0, 10.0), "score_rejected": (0.0, 4.0)}.get(name, (0, 1))
    return least + (most - least) * _drawn(zlib.crc32(name.encode()), (PAIRS,)).clamp(0.01, 0.99)


def _drawn(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class _Side:
    """One answer of every pair; `policy` and `kl` are leaves of the graph."""

    lengths: Tensor
    policy: Tensor
    reference: Tensor
    collision: Tensor
    kl: Tensor

    def of(self, rows: Tensor, traits: Traits) -> TokenLogps:
        """Return the answers of `rows`, as wide as the longest of them."""
        width = int(self.lengths[rows].max())
        inside = torch.arange(width) < self.lengths[rows, None]
        policy, reference, collision, kl = (
            torch.where(inside, values[rows, :width], 0.0)
            for values in (self.policy, self.reference, self.collision, self.kl)
        )
        read = traits.tokens
        return TokenLogps(policy, reference, collision if "collision" in read else None, kl if "kl" in read else None)


class TrialPairs:
    """Eight pairs with ragged lengths.

    Args:
        traits: What the loss declares; the records carry no more than it asks for.
        chosen: Nats by which the log-ratio of the chosen answers is moved.
        rejected: The same of the rejected ones.
        noise: Share by which the policy differs from its reference at each token, up or down; 0 for a policy that is
            its reference.
        dtype: Of all log-probabilities.
    """

    def __init__(
        self,
        traits: Traits,
        *,
        chosen: float = 0.0,
        rejected: float = 0.0,
        noise: float = 0.5,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._traits = traits
        self._running: dict[str, float] = {name: 2.0 for name in traits.running if noise}  # none before the first step
        self._chosen = _side(1, CHOSEN_LENGTHS, chosen, noise, dtype)
        self._rejected = _side(2, REJECTED_LENGTHS, rejected, noise, dtype)

    def leaves(self) -> list[Tensor]:
        """Return what the policy gave: the only tensors that gradient may reach."""
        return [self._chosen.policy, self._rejected.policy, self._chosen.kl, self._rejected.kl]

    def record(self, rows: Tensor | None = None) -> PairLogps:
        """Return a new record of the pairs at `rows`, or of all; its sums are those of its tokens."""
        places = torch.arange(PAIRS) if rows is None else rows
        chosen, rejected = self._chosen.of(places, self._traits), self._rejected.of(places, self._traits)
        return PairLogps(
            chosen.policy.sum(1),
            rejected.policy.sum(1),
            chosen.reference.sum(1),
            rejected.reference.sum(1),
            self._chosen.lengths[places],
            self._rejected.lengths[places],
            extras=AnyNumbers(places),
            chosen_tokens=chosen if self._traits.tokens else None,
            rejected_tokens=rejected if self._traits.tokens else None,
            running=self._running,
        )


def _side(seed: int, lengths: tuple[int, ...], moved: float, noise: float, dtype: torch.dtype) -> _Side:
    counts = torch.tensor(lengths)
    reference, change, collision, kl = _drawn(seed, (4, PAIRS, max(lengths)))
    reference = -0.05 - 3 * reference
    policy = reference * (1 + noise * (2 * change - 1))
    share = moved / counts[:, None]  # of each token; one of both sides falls, so that none rises above 0
    policy, reference = policy + share.clamp(max=0), reference - share.clamp(min=0)
    collision = policy * collision
    kl = 0.2 * noise * kl
    return _Side(
        counts,
        policy.to(dtype).requires_grad_(),
        reference.to(dtype),
        collision.to(dtype),
        kl.to(dtype).requires_grad_(),
    )
