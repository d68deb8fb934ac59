"""What preftune keeps because it can make it again: below the user's cache directory, or `$PREFTUNE_CACHE`.

An entry is a directory named after a hash of everything that it was made from. It is made beside its place and
renamed into it, under a lock; what a killed process left, or what has changed on the disk since, is made afresh.
Whoever uses an entry holds a shared lock on its directory for as long as the process lives, so that `recipes.cache`
removes none that is in use, and its directory's time of change says when it was last used.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from preftune.refusals import Refusal
from preftune.seals import digest_of, sample_of, to_disk

SEAL = "seal.json"
ASIDE = ".partial"  # how the name of a directory ends that is not an entry, or no longer
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # no room: on the disk, in a quota, below `ulimit -f`
_LARGE = 1 << 24  # bytes from which a sample is enough when an entry is used; `verified` reads all of it
_TRIES = 3  # times that an entry is made where its place is removed meanwhile
_MOST = 64  # directories that are held at once: each takes a descriptor
_HELD: dict[Path, int] = {}


def cache_directory(*parts: str) -> Path:
    """Return the directory `parts` below preftune's cache, made where it is missing.

    Raises:
        Refusal: It is no directory, or cannot be made.
    """
    directory = cache_root().joinpath(*parts)
    with _refusing():
        directory.mkdir(parents=True, exist_ok=True)
    return directory


def cache_root() -> Path:
    """Return where everything is kept, whether it is there or not."""
    return Path(os.environ.get("PREFTUNE_CACHE") or platformdirs.user_cache_dir("preftune"))


def key_of(*parts: object) -> str:
    """Return the name of an entry that is made from `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_hash(*files: Path) -> str:
    """Return a hex digest of modules: an entry that other code made is not read."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def made_once(directory: Path, make: Callable[[Path], None], *, afresh: bool = False, of: str = "") -> Path:
    """Return `directory`; where it is missing or unsound, let `make` fill an empty one beside it, then rename that.

    A second process waits for the first. What `make` raises goes on and leaves nothing behind; where its directory
    was removed from under it, it is called again.

    Args:
        directory: The entry's place.
        make: Fills the directory that it is given.
        afresh: Whether to make again what is kept.
        of: What the entry is made from, for a person.

    Raises:
        Refusal: Nothing can be written there.
    """
    if not afresh and found(directory):
        return directory
    lock = FileLock(directory.with_name(f"{directory.name}.lock"))
    with _refusing():
        lock.acquire()
    try:
        if afresh or not found(directory):
            _make(directory, make, of)
    finally:
        lock.release()
    return directory


def found(directory: Path) -> bool:
    """Tell whether `directory` is as it was sealed; if so, it is in use from now on."""
    hold(directory)  # first, so that it is not removed between the look and the use
    return _sound(directory)


def hold(directory: Path) -> None:
    """Note that `directory` is used now, and will be while this process lives."""
    with contextlib.suppress(OSError):  # it is not there, or may not be changed
        os.utime(directory)
    with contextlib.suppress(OSError):  # it is not there, or its file system knows no locks
        held = _HELD.get(directory)
        if held is None or os.fstat(held).st_ino != directory.stat().st_ino:
            let_go(directory)
            if len(_HELD) >= _MOST:
                let_go(next(iter(_HELD)))
            _HELD[directory] = descriptor = os.open(directory, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def let_go(directory: Path) -> None:
    """Hold `directory` no longer."""
    if directory in _HELD:
        os.close(_HELD.pop(directory))


def remove(directory: Path) -> bool:
    """Remove a directory or file unless it is in use; return whether it is gone. A reader sees it whole or not."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if directory.is_dir():
            _set_aside(directory)
        else:
            directory.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def verified(directory: Path) -> bool:
    """Tell whether every byte of an entry is as it was sealed."""
    return _sound(directory, whole=True)


def _make(directory: Path, make: Callable[[Path], None], of: str) -> None:
    for leftover in directory.parent.glob(f"{directory.name}.*{ASIDE}"):  # of a process that was killed
        _set_aside(leftover)
    for attempt in range(_TRIES):
        # No other process has this name, even where the lock was removed with all that is kept.
        partial = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}{ASIDE}")
        try:
            with _refusing():
                partial.mkdir(parents=True)
            make(partial)
            _seal(partial, of)
            _put(partial, directory)
            break
        except FileNotFoundError:
            if partial.exists() or attempt == _TRIES - 1:
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, of: str) -> None:
    known = {file.name: _known_by(file) for file in sorted(partial.iterdir())}
    (partial / SEAL).write_text(json.dumps({"of": of, "files": known}))
    for path in (*partial.iterdir(), partial):  # so that a power cut after the rename leaves none of them empty
        to_disk(path)


def _put(partial: Path, directory: Path) -> None:
    """Rename `partial` to `directory`, unless what is there is the same: another process may be reading it."""
    if _sound(directory) and (directory / SEAL).read_bytes() == (partial / SEAL).read_bytes():
        return
    _set_aside(directory)
    try:
        partial.rename(directory)
    except OSError:
        if not _sound(directory):  # else another process came first, where there is no lock
            raise
    hold(directory)


def _set_aside(directory: Path) -> None:
    """Take `directory` out of its place at once, and remove it then."""
    aside = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}{ASIDE}")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sound(directory: Path, *, whole: bool = False) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        sealed = json.loads((directory / SEAL).read_bytes())["files"]
        return all(_is(directory / name, known, whole=whole) for name, known in sealed.items())
    return False


def _is(file: Path, known: dict[str, Any], *, whole: bool) -> bool:
    size = file.stat().st_size
    if size != known["bytes"]:
        return False
    if whole or size < _LARGE:
        return bool(digest_of(file) == known["sha256"])
    return bool(sample_of(file) == known["sample"])


def _known_by(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sample": sample_of(file), "sha256": digest_of(file)}


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn what keeps the cache from being written into a sentence; where there is no room, that goes on as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise Refusal(
            f"PREFTUNE_CACHE must name a directory that can be written, got {cache_root()}: {error.strerror} "
            f"({error.filename})"
        ) from error
