"""How an earlier start of a run ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["running", "complete", "preempted", "failed"]


@dataclass(frozen=True)
class Previous:
    """How an earlier start of the same run ended.

    Attributes:
        state: As it stands in status.json. `running` means that it was killed: its lock is free.
        step: Optimizer steps that it did.
        max_steps: Optimizer steps that it meant to do; 0 where it did not come to know.
        reason: Why it stopped; null where it is complete or was killed.
        summary: Its summary.json; empty where it wrote none.
        changed: Settings that are other now than they were then.
    """

    state: State
    step: int
    max_steps: int
    reason: str | None
    summary: Mapping[str, Any] = field(default_factory=dict)
    changed: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state == "complete" and not self.changed

    def sentence(self) -> str:
        """Say how the earlier start ended, for the terminal."""
        if self.complete:
            return f"this run is complete: {self.step} steps"
        ended = {"running": "was killed", "failed": "failed"}.get(self.state, f"was {self.state}")
        reason = f" ({self.reason})" if self.reason else ""
        steps = f"step {self.step} of {self.max_steps}" if self.max_steps else "the first step"
        return f"an earlier start of this run {ended} at {steps}{reason}"
