"""The record that every loss takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


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
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)

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

    def detach(self) -> "PairLogps":
        """Return the same numbers, cut from the graph."""
        return replace(self, policy_chosen=self.policy_chosen.detach(), policy_rejected=self.policy_rejected.detach())

    def at_reference(self) -> "PairLogps":
        """Return the record of a policy equal to its reference: what the first step must show."""
        return replace(self, policy_chosen=self.reference_chosen, policy_rejected=self.reference_rejected)

    @staticmethod
    def concatenate(records: "list[PairLogps]") -> "PairLogps":
        """Return one record of all pairs of `records`, which must all carry lengths or none, and the same extras."""
        columns = zip(*(record._tensors() for record in records), strict=True)
        extras = {name: torch.cat([record.extras[name] for record in records]) for name in records[0].extras}
        return PairLogps(*(None if c[0] is None else torch.cat(c) for c in columns), extras=extras)  # type: ignore

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (
            self.policy_chosen,
            self.policy_rejected,
            self.reference_chosen,
            self.reference_rejected,
            self.chosen_lengths,
            self.rejected_lengths,
        )
