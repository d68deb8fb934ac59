"""What files hold, as a digest: the same bytes elsewhere have the same one."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

_SETTLED = 2_000_000_000  # ns; within less, a second write may leave the clock of a file system where it stands
_HASHES: dict[tuple[str, int, int, int], str] = {}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits; a file that stays is read once a process."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key in _HASHES:
        return _HASHES[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
        _HASHES[key] = digest
    return digest


def files_hash(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of the names of `files`, sorted, and of their bytes."""
    lines = [f"{json.dumps(name)} {file_hash(files[name])}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
