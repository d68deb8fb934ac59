"""Steps that must not be trained on, and what is left out of a training that went back from one: `guard.rollback`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from preftune.refusals import RunFailed


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A step whose batch was not trained on.

    Attributes:
        step: The step, from 1; it counts as done.
        what: What was wrong with it: `loss`, `log-ratio`, `gradient`, `weights`, `spike`.
        rows: Where the rows came from that made it so.
    """

    step: int
    what: str
    rows: list[str]


class BadStep(RunFailed):
    """A step went wrong by its batch.

    Attributes:
        left_out: What to leave out to go on without it.
    """

    def __init__(self, sentence: str, step: int, what: str, rows: Sequence[str]) -> None:
        """Say `sentence`; the others are those of `LeftOut`."""
        super().__init__(sentence)
        self.left_out = LeftOut(step, what, list(rows))


class Rollback:
    """How often a training may go back, and what it leaves out since.

    Attributes:
        limit: How many batches may be left out.
        tell: Told the title and the text of each time.
        left_out: Those that are.
    """

    limit: int = 0

    def __init__(self) -> None:
        """Leave nothing out, and never go back."""
        self.tell: Callable[[str, str], None] = lambda title, text: None
        self.left_out: list[LeftOut] = []

    @property
    def may_go_back(self) -> bool:
        """Whether another batch may be left out."""
        return len(self.left_out) < self.limit

    @property
    def first(self) -> int:
        """How many steps are left out before the first that is trained on."""
        return next(step for step in count() if not self.leaves_out(step + 1))

    def leaves_out(self, step: int) -> bool:
        """Whether the batch of a step, from 1, is left out."""
        return any(left.step == step for left in self.left_out)

    def state(self) -> dict[str, Any]:
        """Return what a run goes on from."""
        return {"left_out": [asdict(left) for left in self.left_out]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.left_out = [LeftOut(**left) for left in state["left_out"]]
