"""Whether files are as they were written: each is known by its size and a hash, and brought to the disk."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SAMPLE = 1 << 16  # bytes of the start, the middle and the end that make a sample
_LARGE = 1 << 30  # bytes from which a sample has to do: to read 80 GB would take minutes


def known_by(file: Path) -> dict[str, Any]:
    """Return what a file is known by: its size, and the SHA-256 of all of it, or of a sample where it is large."""
    size = file.stat().st_size
    return {"bytes": size, **({"sha256": digest_of(file)} if size < _LARGE else {"sample": sample_of(file)})}


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sample_of(file: Path) -> str:
    """Return the SHA-256 of a file's start, middle and end."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for start in (0, size // 2, max(0, size - _SAMPLE)):
            content.seek(start)
            digest.update(content.read(_SAMPLE))
    return digest.hexdigest()


def fault_of(directory: Path, sealed: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first of the files that is not as it was; None where all are.

    Args:
        directory: Where they are.
        sealed: What each was known by, by its path below the directory.
    """
    for name, known in sealed.items():
        try:
            if known_by(directory / name) != known:
                return f"{name} is not as it was sealed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def to_disk(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk, where a power cut leaves them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
