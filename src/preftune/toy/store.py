"""A directory that is made once, whole or not at all, whoever asks first and whenever they are killed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """Return `directory`; where it is missing, let `make` fill an empty one beside it, then rename that.

    A second process waits for the first. What a killed one left is cleared away by the next.
    """
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if not directory.exists():
            partial = directory.with_name(f"{directory.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            _flush(partial)
            partial.rename(directory)
    return directory


def _flush(directory: Path) -> None:
    """Bring every file to the disk, so that a power cut after the rename leaves none of them empty."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
