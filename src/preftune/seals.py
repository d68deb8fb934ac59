"""Whether files are as they were written: each is known by its size and a hash, and brought to the disk."""

import hashlib
import os
from pathlib import Path
from typing import Any

_SAMPLE = 1 << 16  # bytes; a large file is known by its size and by this much of its start, middle and end
_LARGE = 1 << 30  # bytes from which that has to do: to read 80 GB would take minutes


def known_by(file: Path) -> dict[str, Any]:
    """Return what a file is known by: its size, and the SHA-256 of all of it, or of a sample where it is large."""
    size = file.stat().st_size
    with file.open("rb") as content:
        if size < _LARGE:
            return {"bytes": size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
        digest = hashlib.sha256()
        for start in (0, size // 2, size - _SAMPLE):
            content.seek(start)
            digest.update(content.read(_SAMPLE))
    return {"bytes": size, "sample": digest.hexdigest()}


def to_disk(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk, where a power cut leaves them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
