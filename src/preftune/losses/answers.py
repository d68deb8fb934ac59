"""The record that a loss of single answers takes, each desirable or not."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AnswerLogps:
    """Log-probabilities of `B` answers, summed over the tokens of each, in nats.

    A mismatched answer is that of another prompt, put behind this one's: what the policy thinks of it shows how far
    it has moved as a whole.

    Attributes:
        desirable: True where the answer is one to make more likely, of shape `(B,)`.
        policy: Of the answers under the policy, of shape `(B,)`.
        reference: Of the answers under the reference, of shape `(B,)`.
        policy_mismatched: Of the mismatched answers under the policy, of shape `(B,)`.
        reference_mismatched: Of the mismatched answers under the reference, of shape `(B,)`.
        lengths: Tokens of the answers, end token included, of shape `(B,)`.
        mismatched_lengths: Tokens of the mismatched answers, end token included, of shape `(B,)`.
    """

    desirable: Tensor
    policy: Tensor
    reference: Tensor
    policy_mismatched: Tensor
    reference_mismatched: Tensor
    lengths: Tensor
    mismatched_lengths: Tensor

    def logratio(self) -> Tensor:
        """Return log pi(answer) - log ref(answer), of shape `(B,)`, in nats."""
        return self.policy - self.reference

    def mismatched_logratio(self) -> Tensor:
        """Return the same of the mismatched answers, of shape `(B,)`, in nats."""
        return self.policy_mismatched - self.reference_mismatched

    def detach(self) -> "AnswerLogps":
        """Return the same numbers, cut from the graph."""
        return replace(self, policy=self.policy.detach(), policy_mismatched=self.policy_mismatched.detach())

    def at_reference(self) -> "AnswerLogps":
        """Return the record of a policy equal to its reference: what the first step must show."""
        return replace(self, policy=self.reference, policy_mismatched=self.reference_mismatched)

    @staticmethod
    def concatenate(records: "list[AnswerLogps]") -> "AnswerLogps":
        """Return one record of all answers of `records`."""
        names = AnswerLogps.__slots__
        return AnswerLogps(**{name: torch.cat([getattr(record, name) for record in records]) for name in names})
