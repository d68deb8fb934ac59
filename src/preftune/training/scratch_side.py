"""A micro-batch of pairs computed from scratch: another way to what trains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from preftune.losses import scratch
from preftune.losses.logps import PairLogps, TokenLogps
from preftune.pairs import PreferencePair

Forward = Callable[[Tensor], Tensor]
Cost = Callable[[Any], Tensor]


class PairSide:
    """A micro-batch computed from scratch: each sequence goes through the model alone and without padding.

    That is another way to the same numbers, and one that holds the logits of a single sequence at a time.
    """

    def __init__(
        self,
        policy: Forward,
        reference: Forward,
        batch: dict[str, Tensor],
        *,
        kl: bool,
        pairs: Sequence[PreferencePair] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            policy: Gives the policy's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`.
            reference: The same of the reference.
            batch: `input_ids`, `attention_mask` and `completion_mask`, each of shape `(2 B, T)`; the first half
                holds chosen, the second rejected.
            kl: Whether the loss reads the divergence at each token.
            pairs: The pairs themselves, for the numbers that travel with them; None where they come by once.
        """
        self.policy, self.reference, self.batch, self.kl = policy, reference, batch, kl
        self.pairs = pairs

    @torch.no_grad()
    def logps(self, trained: PairLogps) -> PairLogps:
        """Compute the record of the batch, in float64, with extras by the names of `trained`."""
        sides = [
            scratch.token_values(self.policy(ids), self.reference(ids), ids, answer)
            for ids, answer in alone(self.batch)
        ]
        half = len(sides) // 2
        chosen, rejected = TokenLogps.concatenate(sides[:half]), TokenLogps.concatenate(sides[half:])
        record = _summed(chosen, rejected, self.batch["completion_mask"][:, 1:].sum(dim=1))
        return replace(record, extras=trained.extras if self.pairs is None else _carried(self.pairs, trained))

    def lengths(self, logps: PairLogps) -> dict[str, Tensor]:
        """Return the tokens behind each sum of log-probabilities, each of shape `(B,)`, by the sum's name."""
        chosen, rejected = logps.lengths()
        of_policy = {"policy_chosen": chosen, "policy_rejected": rejected}
        return of_policy | {"reference_chosen": chosen, "reference_rejected": rejected}

    def gradient(self, cost: Cost, logps: PairLogps, moving: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the gradient of the mean of `cost` to what trains, in float32."""
        return total_gradient(self._heights(_slopes(cost, logps)), moving)

    def _heights(self, slopes: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Yield for each sequence a number whose gradient is its share of the gradient of the mean."""
        for (ids, answer), (slope, kl_slope) in zip(alone(self.batch), slopes, strict=True):
            policy = self.policy(ids)
            with torch.no_grad():
                reference = self.reference(ids) if self.kl else policy.detach()
            values = scratch.token_values(policy, reference, ids, answer)
            length = values.policy.shape[1]
            height = (values.policy[0] * slope[:length]).sum()
            if self.kl and values.kl is not None:
                height = height + (values.kl[0] * kl_slope[:length]).sum()
            yield height


def alone(batch: dict[str, Tensor], prefix: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and completion mask of each sequence, without its padding, both of shape `(1, T)`."""
    columns = (batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    for ids, attended, answer in zip(*columns, strict=True):
        yield ids[attended.bool()][None], answer[attended.bool()][None]


def total_gradient(heights: Iterable[Tensor], moving: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of the sum of `heights` to what trains, holding the graph of one at a time."""
    totals = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in moving]
    for height in heights:
        gradients = torch.autograd.grad(height, moving, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient
    return totals


def _carried(pairs: Sequence[PreferencePair], trained: PairLogps) -> dict[str, Tensor]:
    """Return the numbers that each pair carries, by the names of `trained`, NaN where it has none."""
    return {
        name: torch.tensor(
            [pair.extras.get(name, torch.nan) for pair in pairs], dtype=torch.float64, device=numbers.device
        )
        for name, numbers in trained.extras.items()
    }


def _summed(chosen: TokenLogps, rejected: TokenLogps, lengths: Tensor) -> PairLogps:
    sums = (side.sum(dim=1) for side in (chosen.policy, rejected.policy, chosen.reference, rejected.reference))
    return PairLogps(*sums, *lengths.chunk(2), chosen_tokens=chosen, rejected_tokens=rejected)


def _slopes(cost: Cost, logps: PairLogps) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the gradient of the mean cost to each token's log-probability, and to its KL, sequence by sequence."""
    sides: list[TokenLogps] = []
    leaves: list[Any] = []
    with torch.enable_grad():
        for side in logps.tokens():
            policy = side.policy.detach().requires_grad_()
            kl = torch.zeros_like(policy) if side.kl is None else side.kl.detach()
            leaves += [policy, kl.requires_grad_()]
            sides.append(replace(side, policy=policy, kl=kl))
        record = replace(_summed(sides[0], sides[1], torch.cat(logps.lengths())), extras=logps.extras)
        slopes = torch.autograd.grad(cost(record).mean(), leaves, allow_unused=True, materialize_grads=True)
    for policy_slopes, kl_slopes in (slopes[:2], slopes[2:]):
        yield from zip(policy_slopes, kl_slopes, strict=True)
