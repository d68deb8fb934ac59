"""The largest memory of a stretch of work: of the process on CPU, of the device on CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Peak:
    """Memory of a stretch of work, in bytes.

    Attributes:
        start: Held where it began.
        highest: The most that was held.
    """

    start: int = 0
    highest: int = 0

    @property
    def growth(self) -> int:
        """What the work itself took at its highest."""
        return self.highest - self.start


@contextmanager
def peak() -> Iterator[Peak]:
    """Measure the block; the record is filled at its end. On CPU it needs Linux."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        found = Peak(torch.cuda.memory_allocated())
        yield found
        torch.cuda.synchronize()
        found.highest = torch.cuda.max_memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is held now
        found = Peak(_kept("VmRSS"))
        yield found
        found.highest = _kept("VmHWM")


def _kept(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
