"""Forked children: a process of its own for a test, without the seconds that imports take."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR


def forked(act: Callable[[], object], output: Path | None = None) -> int:
    """Do `act` in a child, which ends with 0, with the code of SystemExit, or with 70 and a traceback.

    Args:
        act: What the child does.
        output: Where it prints to; None is where this process does.

    Returns:
        The child's process id.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        if output is not None:
            for descriptor in (1, 2):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        act()
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:  # noqa: BLE001  # the child must not go on as a second pytest
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def code_of(child: int, seconds: float = 240.0) -> int:
    """Wait for a child and return its exit code, below 0 the signal that killed it.

    One that does not end is aborted, and shows where each of its threads was: pytest lets faulthandler do that.
    """
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)
            deadline = float("inf")
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def ends_within(child: int, seconds: float) -> bool:
    """Wait until a child ends, or for some seconds; return whether it ended. Its code is still to be asked for."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_for(there: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once `there` holds."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def kill_at(operation: int, below: Path) -> None:
    """Kill this process before its `operation`-th file operation below a directory that changes what lies there.

    A sync is one, of whatever file.
    """
    left = iter(range(operation, 0, -1))

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in OPERATIONS and (event != "open" or arguments[2] & WRITING)
        if changes and str(arguments[0]).startswith(str(below)) and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    synced = os.fsync

    def fsync(descriptor: int) -> None:
        seen("os.truncate", (below,))
        synced(descriptor)

    os.fsync = fsync
    sys.addaudithook(seen)
