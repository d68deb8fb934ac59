"""How an earlier start of a run ended, and whether what a complete one came to is as it was written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from preftune.refusals import Refusal
from preftune.runs.files import read_json
from preftune.seals import fault_of, known_by

State = Literal["running", "complete", "preempted", "failed"]
_RESULTS = ("summary.json", "samples.jsonl", "metrics.jsonl")
_TRAINED = ("adapter", "model")  # may be removed, as where disks are small, but not changed


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


def results_of(run: Path) -> dict[str, Any]:
    """Return what the files are known by that a complete run came to, by path; its model card is the user's to edit."""
    trained = (file for kind in _TRAINED for file in sorted((run / kind).rglob("*")) if file.suffix != ".md")
    files = [*(run / name for name in _RESULTS), *trained]
    return {file.relative_to(run).as_posix(): known_by(file) for file in files if file.is_file()}


def read_previous(run: Path, changed: Sequence[str]) -> Previous | None:
    """Return how an earlier start of the run in a directory ended; None where there was none.

    Args:
        run: The directory.
        changed: As in `Previous`.

    Raises:
        Refusal: The run is complete, and what it came to is not as it was written; or its status cannot be read.
    """
    file = run / "status.json"
    if (status := read_json(file)) is None:
        return None
    if lacking := [key for key in ("state", "step", "max_steps", "reason") if key not in status]:
        raise Refusal(f"{file} must hold the status of a run, got none with {lacking[0]}; put it back, or remove it")
    previous = Previous(status["state"], status["step"], status["max_steps"], status["reason"], changed=changed)
    if not previous.complete:
        return previous
    gone = {kind for kind in _TRAINED if not (run / kind).exists()}
    sealed = {name: known for name, known in status.get("files", {}).items() if name.partition("/")[0] not in gone}
    if fault := fault_of(run, sealed):
        raise Refusal(
            f"what a complete run came to must be as it was written, got {run}, where {fault}; put it back, or remove "
            f"{file} to have it written again from the last checkpoint"
        )
    return replace(previous, summary=read_json(run / "summary.json") or {})
