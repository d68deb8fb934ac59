"""What preftune keeps because it can make it again: below the user's cache directory, or `$PREFTUNE_CACHE`.

An entry is a directory named after a hash of everything that it was made from. It is made beside its place and
renamed into it, under a lock; what a killed process left, or what has changed on the disk since, is made afresh.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

_SEAL = "seal.json"
_SAMPLE = 1 << 16  # bytes; a file is known by its size and by this much of its start, middle and end


def cache_directory(*parts: str) -> Path:
    """Return the directory `parts` below preftune's cache, made where it is missing."""
    root = os.environ.get("PREFTUNE_CACHE") or platformdirs.user_cache_dir("preftune")
    directory = Path(root).joinpath(*parts)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def key_of(*parts: object) -> str:
    """Return the name of an entry that is made from `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_hash(*files: Path) -> str:
    """Return a hex digest of modules: an entry that other code made is not read."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def made_once(directory: Path, make: Callable[[Path], None], *, afresh: bool = False) -> Path:
    """Return `directory`; where it is missing or unsound, let `make` fill an empty one beside it, then rename that.

    A second process waits for the first. What `make` raises goes on and leaves nothing behind. With `afresh`, what
    is kept is made again.
    """
    if not afresh and _sound(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if afresh or not _sound(directory):
            _make(directory, make)
    return directory


def _make(directory: Path, make: Callable[[Path], None]) -> None:
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here: its lock is free
    partial.mkdir()
    try:
        make(partial)
        (partial / _SEAL).write_text(json.dumps({file.name: _known_by(file) for file in sorted(partial.iterdir())}))
        _flush(partial)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sound(directory: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, ValueError):
        sealed = json.loads((directory / _SEAL).read_bytes())
        return all(_known_by(directory / name) == known for name, known in sealed.items())
    return False


def _known_by(file: Path) -> list[object]:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for start in (0, size // 2, max(0, size - _SAMPLE)):
            content.seek(start)
            digest.update(content.read(_SAMPLE))
    return [size, digest.hexdigest()]


def _flush(directory: Path) -> None:
    """Bring every file to the disk, so that a power cut after the rename leaves none of them empty."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
