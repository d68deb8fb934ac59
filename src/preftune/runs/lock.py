"""Who holds a run's directory: one process at a time, by a lock that the system frees when the process ends."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from preftune.refusals import Refusal
from preftune.runs.files import write_json

_POLL = 0.5  # s between two looks whether the directory is free
_LOOKS = 10  # in that time, at who holds it


def hold(path: Path, waiting: Callable[[str], None] | None = None) -> FileLock:
    """Make a directory where it is missing, and take its lock.

    Args:
        path: The directory.
        waiting: Told once who holds the directory, which is then waited for; None refuses it.

    Raises:
        Refusal: Another process holds it, it holds something but no run, or it cannot be written.
    """
    _refuse_strange(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is None:
                raise
            waiting(_holder(path))
            lock.acquire(poll_interval=_POLL)
    except Timeout:
        raise Refusal(
            f"run directory must not be in use, got {path}, which {_holder(path)} holds; "
            "wait for it, stop it, or set run.dir to another directory"
        ) from None
    except OSError as error:
        raise Refusal(f"run directory must be a directory that can be written, got {path}: {error.strerror}") from error
    return lock


def sign(path: Path) -> None:
    """Say that this process holds the directory."""
    process = {"pid": os.getpid(), "host": socket.gethostname(), "began": _began(os.getpid())}
    write_json(path / ".holder.json", process)


def let_go(path: Path, lock: FileLock) -> None:
    """Free the directory."""
    (path / ".holder.json").unlink(missing_ok=True)
    lock.release()


def _refuse_strange(path: Path) -> None:
    """Refuse a directory that holds something, but no run."""
    if not path.is_dir():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    # A run's first file is its manifest: looked for last, it is seen where another process begins the run just now.
    if strangers and not (path / "manifest.json").exists():
        raise Refusal(
            f"run directory must be empty or hold a run (a manifest.json), got {path}, "
            f"which holds {', '.join(strangers[:3])}; set run.dir to another directory"
        )


def _holder(path: Path) -> str:
    """Name the process that holds the directory, unless what stands there is left of an earlier one."""
    for _ in range(_LOOKS):  # it may have only just taken the lock
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads((path / ".holder.json").read_bytes())
            if holder["host"] != socket.gethostname() or _began(holder["pid"]) == holder["began"]:
                return f"process {holder['pid']} on {holder['host']}"
        time.sleep(_POLL / _LOOKS)
    return "another process"  # the one that stands there is gone, or its number was given again


def _began(process: int) -> str | None:
    """Return when a process began, in clock ticks since the system did; None where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
