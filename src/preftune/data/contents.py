"""What files hold, as a digest: the same bytes elsewhere have the same one."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from preftune.caches import ASIDE, cache_directory, key_of

_LARGE = 1 << 24  # bytes from which a digest is kept for the next process
_SETTLED = 2_000_000_000  # ns; within less, a second write may leave the clock of a file system where it stands
_HASHES: dict[tuple[str, int, int, int], str] = {}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    A file that stays is read once a process, and a large one once: no write leaves size and both times of a file as
    they were.
    """
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key in _HASHES:
        return _HASHES[key]
    kept = cache_directory("hashes") / key_of(*key, status.st_ino) if status.st_size >= _LARGE else None
    digest = (kept and kept_digest(kept)) or _digest(path)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
        _HASHES[key] = digest
        if kept is not None and kept_digest(kept) is None:
            beside = kept.with_name(f"{kept.name}.{os.getpid()}{ASIDE}")
            with contextlib.suppress(OSError):  # it only saves time
                beside.write_bytes(_line(kept, digest))
                beside.replace(kept)
    return digest


def kept_digest(place: Path) -> str | None:
    """Return the digest that is kept at `place`; None where there is none, or it is harmed."""
    with contextlib.suppress(OSError):
        line = place.read_bytes()
        digest = line[:64].decode("ascii", "replace")
        return digest if line == _line(place, digest) else None
    return None


def _line(place: Path, digest: str) -> bytes:
    """Return what is kept of a file: its digest, and one of that, which shows a harmed entry."""
    return f"{digest} {key_of(place.name, digest)}".encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of the names of `files`, sorted, and of their bytes."""
    lines = [f"{json.dumps(name)} {file_hash(files[name])}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
