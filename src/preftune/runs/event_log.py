"""metrics.jsonl: one object for each log event, appended as it happens."""

import os
from collections.abc import Mapping
from pathlib import Path

from preftune.refusals import Refusal
from preftune.runs.files import line


class EventLog:
    """The events of a run, in a file that grows by one whole line at a time.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self.path = path

    def __call__(self, metrics: Mapping[str, object], step: int) -> None:
        """Append one event, keys as they are."""
        with self.path.open("ab") as file:
            file.write(line({"step": step, **metrics}))

    def state(self) -> dict[str, int]:
        """Return how long the file is, once all of it is on the disk."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return {"bytes": file.tell()}

    def restore(self, state: Mapping[str, int]) -> None:
        """Cut off what was logged after `state` was returned.

        Raises:
            Refusal: The file is shorter than it was then.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < state["bytes"]:
            raise Refusal(
                f"{self.path} must hold the {state['bytes']:,} bytes that were logged up to the checkpoint, got "
                f"{size:,}; put it back, or remove {self.path.parent / 'checkpoints'} to begin anew"
            )
        os.truncate(self.path, state["bytes"])
