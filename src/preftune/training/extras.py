"""The numbers that travel with pairs, on their way from the data to the loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from preftune.data.store import Numbers
from preftune.data.table import PairTable
from preftune.losses.catalogue import PairLoss
from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal, RunFailed
from preftune.tokens.tokenization import TokenizedPairs
from preftune.training.preparation import Prepared
from preftune.training.settings import LossSettings


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


def refuse_unfit(prepared: Prepared, loss: LossSettings, pair_loss: PairLoss) -> None:
    """Refuse pairs whose numbers the loss cannot take; of streamed pairs the sample is looked at.

    Raises:
        Refusal: No train pair carries what the loss needs, or a number is outside its range.
    """
    train = _numbers(prepared.pairs.train, prepared.rows)
    held_out = _numbers(prepared.pairs.held_out, prepared.held_out)
    given = {name: column for name, column in train.items() if not bool(column.isnan().all())}
    nothing = torch.full((len(prepared.held_out.rows),), torch.nan, dtype=torch.float64)
    for split, numbers in (("train", given), ("held-out", dict.fromkeys(loss.reads, nothing) | held_out)):
        count = len(next(iter(numbers.values()), nothing))
        zero, one = torch.zeros(count), torch.ones(count)
        try:
            pair_loss(PairLogps(zero, zero, zero, zero, one, one, extras=numbers))
        except ValueError as error:
            raise Refusal(f"loss.name must suit the {split} pairs, got {loss.name}: {error}") from error


def failing_plainly(pair_loss: PairLoss) -> PairLoss:
    """Return the same loss, which ends the run by a sentence where a number of a streamed pair does not suit it."""

    @wraps(pair_loss)
    def plain(logps: PairLogps) -> Tensor:
        try:
            return pair_loss(logps)
        except ValueError as error:
            raise RunFailed(f"the loss cannot take these pairs: {error}") from error

    return plain


def _numbers(pairs: PairTable, rows: TokenizedPairs) -> dict[str, Tensor]:
    places = rows.places()
    return {name: torch.from_numpy(column[places]) for name, column in pairs.extras().items()}
