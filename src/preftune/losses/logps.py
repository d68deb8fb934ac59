"""The record that every loss takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class TokenLogps:
    """Values at each token of `B` completions, for losses that ask for them: `preftune.losses.traits`.

    Column t is token t of the completion; columns beyond its end are 0. All are of shape `(B, T)`.

    Attributes:
        policy: Log-probability of the token under the policy, in nats.
        reference: The same under the reference.
        collision: Log of the sum of the squared probabilities of all next tokens under the policy, without gradient.
        kl: Divergence of the policy's distribution of the next token from the reference's, KL(reference || policy),
            in nats.
    """

    policy: Tensor
    reference: Tensor
    collision: Tensor | None = None
    kl: Tensor | None = None

    def detach(self) -> "TokenLogps":
        """Return the same numbers, cut from the graph."""
        return TokenLogps(*(None if t is None else t.detach() for t in self._tensors()))  # type: ignore[arg-type]

    @staticmethod
    def concatenate(records: "list[TokenLogps]") -> "TokenLogps":
        """Return one record of all completions of `records`, as wide as the widest."""
        width = max(record.policy.shape[1] for record in records)
        columns = zip(*(record._tensors() for record in records), strict=True)
        padded = ([pad(each, (0, width - each.shape[1])) for each in c if each is not None] for c in columns)
        return TokenLogps(*(torch.cat(column) if column else None for column in padded))  # type: ignore[arg-type]

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (self.policy, self.reference, self.collision, self.kl)


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of `B` pairs, summed over the tokens of each completion, in nats.

    Attributes:
        policy_chosen: Of the chosen completions under the policy, of shape `(B,)`.
        policy_rejected: Of the rejected completions under the policy, of shape `(B,)`.
        reference_chosen: Of the chosen completions under the reference, of shape `(B,)`.
        reference_rejected: Of the rejected completions under the reference, of shape `(B,)`.
        chosen_lengths: Tokens of the chosen completions, end token included, of shape `(B,)`.
        rejected_lengths: Tokens of the rejected completions, end token included, of shape `(B,)`.
        extras: Numbers that travel with the pairs, by name, each of shape `(B,)`, NaN where a pair has none: for
            instance `probability`, that chosen is the better, or `weight`.
        chosen_tokens: Values at each token of the chosen completions, where the loss asks for them.
        rejected_tokens: The same of the rejected completions.
        running: Averages over the steps so far, by name, for instance `margin`; empty before the first.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    chosen_tokens: TokenLogps | None = field(default=None, kw_only=True)
    rejected_tokens: TokenLogps | None = field(default=None, kw_only=True)
    running: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def chosen_logratio(self) -> Tensor:
        """Return log pi(chosen) - log ref(chosen), of shape `(B,)`, in nats."""
        return self.policy_chosen - self.reference_chosen

    def rejected_logratio(self) -> Tensor:
        """Return log pi(rejected) - log ref(rejected), of shape `(B,)`, in nats."""
        return self.policy_rejected - self.reference_rejected

    def margin(self) -> Tensor:
        """Return the chosen log-ratio less the rejected one, of shape `(B,)`, in nats; free of beta."""
        return self.chosen_logratio() - self.rejected_logratio()

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Return the tokens of chosen and rejected.

        Raises:
            ValueError: The record was made without lengths.
        """
        if self.chosen_lengths is None or self.rejected_lengths is None:
            raise ValueError("chosen_lengths and rejected_lengths must be set for this loss, got None")
        return self.chosen_lengths, self.rejected_lengths

    def tokens(self) -> tuple[TokenLogps, TokenLogps]:
        """Return the values at each token of chosen and rejected.

        Raises:
            ValueError: The record was made without them.
        """
        if self.chosen_tokens is None or self.rejected_tokens is None:
            raise ValueError("chosen_tokens and rejected_tokens must be set for this loss, got None")
        return self.chosen_tokens, self.rejected_tokens

    def detach(self) -> "PairLogps":
        """Return the same numbers, cut from the graph."""
        return replace(
            self,
            policy_chosen=self.policy_chosen.detach(),
            policy_rejected=self.policy_rejected.detach(),
            chosen_tokens=self.chosen_tokens and self.chosen_tokens.detach(),
            rejected_tokens=self.rejected_tokens and self.rejected_tokens.detach(),
        )

    def sums(self) -> "PairLogps":
        """Return the sums and lengths alone, cut from the graph: what is light enough to be kept of many batches."""
        return PairLogps(*(None if each is None else each.detach() for each in self._tensors()))  # type: ignore[arg-type]

    def at_reference(self) -> "PairLogps":
        """Return the record of a policy equal to its reference: what the first step must show."""
        tokens = [
            side and replace(side, policy=side.reference, kl=None if side.kl is None else torch.zeros_like(side.kl))
            for side in (self.chosen_tokens, self.rejected_tokens)
        ]
        return replace(
            self,
            policy_chosen=self.reference_chosen,
            policy_rejected=self.reference_rejected,
            chosen_tokens=tokens[0],
            rejected_tokens=tokens[1],
        )

    @staticmethod
    def concatenate(records: "list[PairLogps]") -> "PairLogps":
        """Return one record of all pairs of `records`, which must all carry the same: lengths, tokens, extras."""
        first = records[0]
        columns = zip(*(record._tensors() for record in records), strict=True)
        joined = (None if column[0] is None else torch.cat(column) for column in columns)
        sides = (
            None if getattr(first, name) is None else TokenLogps.concatenate([getattr(each, name) for each in records])
            for name in ("chosen_tokens", "rejected_tokens")
        )
        extras = {name: torch.cat([record.extras[name] for record in records]) for name in first.extras}
        chosen_tokens, rejected_tokens = sides
        return PairLogps(
            *joined,  # type: ignore[arg-type]
            extras=extras,
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
            running=first.running,
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (
            self.policy_chosen,
            self.policy_rejected,
            self.reference_chosen,
            self.reference_rejected,
            self.chosen_lengths,
            self.rejected_lengths,
        )
