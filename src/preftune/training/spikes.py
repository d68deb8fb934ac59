"""Steps whose loss jumps far above that of the steps before them."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

WINDOW = 100  # steps that a loss is compared with
FEWEST = 20  # steps before the first is judged
_FLOOR = 0.01  # least deviation, as a share of the first step's loss: early losses hardly differ
_NORMAL = 1.4826  # standard deviation of normal numbers over their median absolute deviation
_ROWS = 8  # that are named


@dataclass(frozen=True, slots=True)
class Spike:
    """A step whose loss jumped.

    Attributes:
        step: The step, from 1.
        loss: Its mean loss.
        median: Of the steps before it.
        deviations: How far above the median it lies.
        rows: Its costliest rows with their costs.
    """

    step: int
    loss: float
    median: float
    deviations: float
    rows: list[tuple[float, str]]

    def sentence(self) -> str:
        """Say it, and what a person can do."""
        rows = ", ".join(f"{row} ({cost:.3g})" for cost, row in self.rows)
        return (
            f"The loss of step {self.step} is {self.loss:.4g}, {self.deviations:.0f} deviations above the median of "
            f"the steps before it, {self.median:.4g}. Its costliest rows: {rows}. Look at those rows, or lower "
            "train.learning_rate."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name; of the rows where they came from."""
        return {**asdict(self), "rows": [row for _, row in self.rows]}


class Spikes:
    r"""Finds them as the steps come.

    A loss :math:`l` of a step is a spike where :math:`l > m + k d`: :math:`m` is the median of the last `WINDOW`
    losses, :math:`d` their median absolute deviation from it, times 1.4826, at least a hundredth of the first loss, and
    :math:`k` is `guard.spike`. Spikes themselves hardly move either.

    Attributes:
        found: The spikes so far.
        losses: The losses that the next one is compared with.
        first: The first loss; None before it.
    """

    def __init__(self, limit: float | None) -> None:
        """Judge by `limit` deviations; None finds nothing."""
        self.limit = limit
        self.found: list[Spike] = []
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.first: float | None = None

    def see(self, step: int, loss: float, rows: Callable[[], list[tuple[float, str]]]) -> Spike | None:
        """Judge a step.

        Args:
            step: The step, from 1.
            loss: Its mean loss.
            rows: Gives its rows with their costs, the costliest first.

        Returns:
            The spike, where it is one.
        """
        self.first = loss if self.first is None else self.first
        middle, deviation = self._spread()
        self.losses.append(loss)
        if self.limit is None or len(self.losses) <= FEWEST or not loss > middle + self.limit * deviation:
            return None
        self.found.append(Spike(step, loss, middle, (loss - middle) / deviation, rows()[:_ROWS]))
        return self.found[-1]

    def state(self) -> dict[str, Any]:
        """Return what a run goes on from."""
        return {"found": [asdict(spike) for spike in self.found], "losses": list(self.losses), "first": self.first}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.found = [Spike(**spike) for spike in state["found"]]
        self.losses = deque(state["losses"], maxlen=WINDOW)
        self.first = state["first"]

    def _spread(self) -> tuple[float, float]:
        """Return the median of the last losses, and their deviation."""
        middle = median(self.losses or [0.0])
        apart = median([abs(loss - middle) for loss in self.losses] or [0.0])
        return middle, max(_NORMAL * apart, _FLOOR * abs(self.first or 0.0), 1e-12)
