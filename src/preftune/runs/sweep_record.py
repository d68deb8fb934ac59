"""The record of a sweep, `sweeps/<name>/sweep.json`: what varies, its jobs, and how each of them ended."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from preftune.refusals import Refusal
from preftune.runs.files import read_json, write_json


class Sweep:
    """The record of a sweep, to which its jobs add from their own processes."""

    def __init__(self, name: str) -> None:
        """Find the sweep `name`."""
        self.directory = Path("sweeps") / name
        self.file = self.directory / "sweep.json"
        self._stop = self.directory / ".stop"

    def read(self) -> dict[str, Any]:
        """Return what sweep.json holds."""
        return read_json(self.file) or {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from starting the sweep.

        Raises:
            Refusal: One has.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            message = f"sweep must not be under way elsewhere, got {self.directory}; wait for it, or stop it"
            raise Refusal(message) from None
        try:
            yield
        finally:
            lock.release()

    def begin(self, about: Mapping[str, Any], jobs: Sequence[Sequence[str]]) -> None:
        """Write the record of a sweep none of whose `jobs`, each its overrides, has been looked at.

        Raises:
            Refusal: The name belongs to another sweep.
        """
        if (other := self.read().get("identity", about["identity"])) != about["identity"]:
            raise Refusal(
                f"sweep.name must be new or that of this sweep ({about['identity'][:8]}), got {self.directory.name}, "
                f"which is sweep {other[:8]}: other axes, values or settings; leave it out to name the sweep after its "
                "axes"
            )
        self._stop.unlink(missing_ok=True)
        planned = [_job(number, job) for number, job in enumerate(jobs)]
        write_json(self.file, {**about, "started": _now(), "ended": None, "concluded": False, "jobs": planned})

    def record(self, overrides: Sequence[str], **found: object) -> int:
        """Add what is known of the job with these `overrides`, and return its number."""
        with FileLock(self.directory / ".sweep.json.lock"):
            sweep = self.read()
            jobs = sweep["jobs"]
            job = next((job for job in jobs if job["overrides"] == list(overrides)), None)
            if job is None:
                job = _job(len(jobs), overrides)
                jobs.append(job)
            job |= found
            write_json(self.file, sweep)
            return int(job["number"])

    @property
    def is_stopped(self) -> bool:
        """Whether no further job may begin."""
        return self._stop.exists()

    def stop_elsewhere(self) -> bool:
        """Stop the jobs that other processes on this machine look after; return whether there are any."""
        self._stop.touch()
        host, own = socket.gethostname(), os.getpid()
        running = [job for job in self.read()["jobs"] if job["state"] == "running"]
        found = [job["pid"] for job in running if job["host"] == host and job["pid"] != own]
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        if not found:
            self._stop.unlink()
        return bool(found)

    def conclude(self, started: float) -> list[dict[str, Any]]:
        """Close the record of a sweep that began at `started`, by the monotonic clock, and return its jobs."""
        sweep = self.read()
        seconds = round(time.monotonic() - started, 1)
        write_json(self.file, {**sweep, "ended": _now(), "seconds": seconds, "concluded": True})
        jobs: list[dict[str, Any]] = sweep["jobs"]
        return jobs


def _job(number: int, overrides: Sequence[str]) -> dict[str, Any]:
    axes = {key: _plain(value) for key, _, value in (override.partition("=") for override in overrides)}
    return {"number": number, "overrides": list(overrides), "axes": axes, "state": "not_run"}


def _plain(value: str) -> int | float | str:
    """Return what a person would read `value` as: a number where it is one."""
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
