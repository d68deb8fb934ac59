"""Which device a job of a sweep may use: jobs at the same time on one machine have one each."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from preftune.caches import cache_directory

_WAIT = 0.5  # s between two looks for a free device


def devices() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them, without touching one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    return [str(place) for place in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


@contextmanager
def device_slot() -> Iterator[str | None]:
    """Hold a device that no other job on this machine holds, and wait for one where all are held.

    None where there is no device, and where Slurm has given the job its own.
    """
    names = [] if "SLURM_JOB_ID" in os.environ else devices()
    if not names:
        yield None
        return
    locks = {name: FileLock(cache_directory("slots") / f"{platform.node()}-{name}.lock") for name in names}
    held = _first_free(locks)
    try:
        yield held
    finally:
        locks[held].release()


def _first_free(locks: dict[str, FileLock]) -> str:
    while True:
        for name, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return name
        time.sleep(_WAIT)
