"""The independent KTO loss, written answer by answer from the paper's value function, in float64."""

import torch
from torch import Tensor

from preftune.losses.answers import AnswerLogps


def kto(answers: AnswerLogps, *, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """KTO, arXiv:2402.01306, section 4.1: lambda_y - v(x, y), with v the value of an answer against z_0."""
    moved = [
        policy - reference
        for policy, reference in zip(
            answers.policy_mismatched.tolist(), answers.reference_mismatched.tolist(), strict=True
        )
    ]
    z = max(0.0, sum(moved) / len(moved))
    rewards = answers.policy.double() - answers.reference.double()
    costs = []
    for reward, desirable in zip(rewards, answers.desirable.tolist(), strict=True):
        gain, weight = (reward - z, desirable_weight) if desirable else (z - reward, undesirable_weight)
        value = weight * (1.0 + torch.tanh(beta * gain / 2.0)) / 2.0  # sigma(x) = (1 + tanh(x / 2)) / 2
        costs.append(weight - value)
    return torch.stack(costs)
