"""Records of pairs for the tests of losses, and parameters for every loss."""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps

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
}


def record(
    chosen: float, rejected: float, chosen_length: int = 2, rejected_length: int = 4, **extras: float
) -> PairLogps:
    """One pair with the given log-ratios and extras: the reference's log-probabilities are -3 and -5."""
    return PairLogps(
        torch.tensor([chosen - 3.0], dtype=torch.float64),
        torch.tensor([rejected - 5.0], dtype=torch.float64),
        torch.tensor([-3.0], dtype=torch.float64),
        torch.tensor([-5.0], dtype=torch.float64),
        torch.tensor([chosen_length]),
        torch.tensor([rejected_length]),
        extras={name: torch.tensor([value], dtype=torch.float64) for name, value in extras.items()},
    )


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
    """Pairs drawn at random, some of whose log-probabilities are 0 or close to it."""
    values = [-(torch.rand(count, dtype=torch.float64) ** 4) * 200 for _ in range(4)]
    lengths = [torch.randint(1, 50, (count,)) for _ in range(2)]
    return PairLogps(*values, *lengths, extras=extras_of(count))
