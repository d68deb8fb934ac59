"""The numbers that travel with pairs, on their way from the data to the loss."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from preftune.data.loading import PreparedPairs
from preftune.data.store import Numbers
from preftune.data.table import PairTable
from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.objective import Objective
from preftune.refusals import Refusal, RunFailed
from preftune.tokens.tokenization import TokenizedPairs
from preftune.training.loss_settings import LossSettings


@dataclass(frozen=True, slots=True)
class Extras:
    """The numbers of one split.

    Attributes:
        columns: By name, one number a pair, NaN where a pair has none.
        reads: Names that are given even where no pair of the split carries them.
    """

    columns: Mapping[str, Numbers]
    reads: tuple[str, ...]

    def of(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the numbers of the pairs at the places `rows`, by name, each of the shape of `rows`."""
        places = rows.cpu().numpy()
        nothing = torch.full(rows.shape, torch.nan, dtype=torch.float64, device=rows.device)
        found = {name: torch.from_numpy(column[places]).to(rows.device) for name, column in self.columns.items()}
        return dict.fromkeys(self.reads, nothing) | found


def refuse_unfit(
    pairs: PreparedPairs,
    rows: TokenizedPairs,
    held_out: TokenizedPairs,
    loss: LossSettings,
    objective: Objective,
) -> None:
    """Refuse pairs whose numbers the loss cannot take; of streamed pairs the sample is looked at.

    Raises:
        Refusal: No train pair carries what the loss needs, or a number is outside its range.
    """
    train = _numbers(pairs.train, rows)
    given = {name: column for name, column in train.items() if not bool(column.isnan().all())}
    nothing = torch.full((len(held_out.rows),), torch.nan, dtype=torch.float64)
    beside = dict.fromkeys(loss.reads, nothing) | _numbers(pairs.held_out, held_out)
    for split, numbers in (("train", given), ("held-out", beside)):
        count = len(next(iter(numbers.values()), nothing))
        zero, one = torch.zeros(count), torch.ones(count, dtype=torch.int64)
        tokens = TokenLogps(*(torch.zeros(count, 1) for _ in range(4)))
        record = PairLogps(
            *(zero, zero, zero, zero, one, one), extras=numbers, chosen_tokens=tokens, rejected_tokens=tokens
        )
        try:
            objective(record)
        except ValueError as error:
            raise Refusal(f"loss.name must suit the {split} pairs, got {loss.label}: {error}") from error


@contextmanager
def failing_plainly() -> Iterator[None]:
    """End the run by a sentence where a number of a streamed pair does not suit the loss.

    Raises:
        RunFailed: It does not.
    """
    try:
        yield
    except ValueError as error:
        raise RunFailed(f"the loss cannot take these pairs: {error}") from error


def _numbers(pairs: PairTable, rows: TokenizedPairs) -> dict[str, Tensor]:
    places = rows.places()
    return {name: torch.from_numpy(column[places]) for name, column in pairs.extras().items()}
