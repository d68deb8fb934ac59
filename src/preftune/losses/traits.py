"""What a loss says of itself: what it reads beyond sums, and whether its costs belong to single pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Values = Literal["logps", "collision", "kl"]
Loss = TypeVar("Loss", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Traits:
    """What holds of a loss, or of a penalty term.

    Attributes:
        per_pair: Permuting the pairs permutes the costs: each cost is that of one pair.
        accumulates: A pair costs the same beside any others, so that the gradient of a batch is the mean of those of
            its halves, and a step does not depend on how its pairs fall into micro-batches.
        tokens: What is read at each token: `logps` (policy and reference), `collision`, `kl`; see `TokenLogps`.
        running: Averages over the steps so far that are read, by name: `margin`.
    """

    per_pair: bool = True
    accumulates: bool = True
    tokens: tuple[Values, ...] = ()
    running: tuple[Literal["margin"], ...] = ()


def declares(
    *,
    per_pair: bool = True,
    accumulates: bool = True,
    tokens: tuple[Values, ...] = (),
    running: tuple[Literal["margin"], ...] = (),
) -> Callable[[Loss], Loss]:
    """Mark a loss with its traits; one without the mark is per pair, accumulates and reads sums alone.

    Example:
        >>> @declares(per_pair=False, accumulates=False)
        ... def sorted_margins(logps, *, beta):
        ...     return -beta * logps.margin().sort().values
        >>> traits_of(sorted_margins).per_pair
        False
    """

    def marked(loss: Loss) -> Loss:
        loss.traits = Traits(per_pair, accumulates, tokens, running)  # type: ignore[attr-defined]
        return loss

    return marked


def traits_of(loss: Callable[..., Any]) -> Traits:
    """Return what a loss declares of itself."""
    return getattr(loss, "traits", Traits())
