"""metrics.jsonl: one object for each log event, appended as it happens."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        self._hash = hashlib.sha256()

    def __call__(self, metrics: Mapping[str, object], step: int) -> None:
        """Append one event, keys as they are."""
        event = line({"step": step, **metrics})
        with self.path.open("ab") as file:
            file.write(event)
        self._hash.update(event)

    def state(self) -> dict[str, Any]:
        """Return length and hash of the file, once all of it is on the disk."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return {"bytes": file.tell(), "sha256": self._hash.hexdigest()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Cut off what was logged after `state` was returned.

        Raises:
            Refusal: The file does not begin with what it held then.
        """
        logged = self.path.read_bytes()[: state["bytes"]] if self.path.exists() else b""
        self._hash = hashlib.sha256(logged)
        if self._hash.hexdigest() != state["sha256"]:
            got = "others" if len(logged) == state["bytes"] else f"{len(logged):,}"
            raise Refusal(
                f"{self.path} must begin with the {state['bytes']:,} bytes that were logged up to the checkpoint, got "
                f"{got}; put it back, or remove {self.path.parent / 'checkpoints'} to begin anew"
            )
        os.truncate(self.path, state["bytes"])
