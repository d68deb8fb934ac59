"""One run's directory: its lock, its status, and everything the run leaves behind.

A process killed at any instant leaves no half-written JSON file: each is written beside its place and renamed
into it. Only metrics.jsonl grows in place, one whole line at a time.
"""

import contextlib
import json
import os
import platform
import socket
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from filelock import FileLock, Timeout

from preftune.refusals import Interrupted, Refusal, RunFailed
from preftune.reporting.pair_report import PairReport
from preftune.reporting.pairs_page import pairs_page
from preftune.reporting.run_page import run_page
from preftune.runs.event_log import EventLog
from preftune.runs.files import line, read_json, replace, write_json, write_text
from preftune.training.checkpoints import Sealed

State = Literal["running", "complete", "preempted", "failed"]

_PACKAGES = ("preftune", "torch", "trl", "transformers", "peft", "datasets", "bitsandbytes", "accelerate")
_OF_DATA = ("ledger.json", "data.json", "data.html")
_OF_ONE_START = (*_OF_DATA, "plan.json", "samples.jsonl", "summary.json", "report.html", "traceback.txt")


@dataclass(frozen=True)
class Previous:
    """How an earlier start of the same run ended.

    Attributes:
        state: As it stands in status.json. `running` means that it was killed: its lock is free.
        step: Optimizer steps that it did.
        max_steps: Optimizer steps that it meant to do; 0 where it did not come to know.
        reason: Why it stopped; null where it is complete or was killed.
        summary: Its summary.json; empty where it wrote none.
    """

    state: State
    step: int
    max_steps: int
    reason: str | None
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state == "complete"

    def sentence(self) -> str:
        """Say how the earlier start ended, for the terminal."""
        if self.complete:
            return f"this run is complete: {self.step} steps"
        ended = {"running": "was killed", "preempted": "was preempted"}.get(self.state, self.state)
        reason = f" ({self.reason})" if self.reason else ""
        steps = f"step {self.step} of {self.max_steps}" if self.max_steps else "the first step"
        return f"an earlier start of this run {ended} at {steps}{reason}"


class RunDirectory:
    """A run's directory, held by this process until it is closed. Made by `RunDirectory.open`.

    Attributes:
        path: The directory.
        identity: 64 hexadecimal digits, from `identity.identity`.
        log: Its metrics.jsonl.
    """

    def __init__(self, path: Path, identity: str, lock: FileLock) -> None:
        self.path = path
        self.log = EventLog(path / "metrics.jsonl")
        self.identity = identity
        self._lock = lock
        self._status: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path, identity: str) -> Self:
        """Make the directory where it is missing, and hold it.

        Raises:
            Refusal: The directory is in use, belongs to another run, is no run directory, or cannot be
                written.
        """
        _refuse_strange(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise Refusal(
                f"run directory must not be in use, got {path}, which {_holder(path)} holds; "
                "wait for it, stop it, or set run.dir to another directory"
            ) from None
        except OSError as error:
            raise Refusal(
                f"run directory must be a directory that can be written, got {path}: {error.strerror}"
            ) from error
        directory = cls(path, identity, lock)
        try:
            directory._refuse_another_run()
            write_json(directory.path / ".holder.json", {"pid": os.getpid(), "host": socket.gethostname()})
        except BaseException:
            lock.release()
            raise
        return directory

    def close(self) -> None:
        """Let go of the directory."""
        (self.path / ".holder.json").unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the directory itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the directory."""
        self.close()

    def previous(self) -> Previous | None:
        """Return how an earlier start of this run ended; None where there was none. Read before `start`."""
        status = read_json(self.path / "status.json")
        if status is None:
            return None
        return Previous(
            state=status["state"],
            step=status["step"],
            max_steps=status["max_steps"],
            reason=status["reason"],
            summary=read_json(self.path / "summary.json") or {},
        )

    def start(
        self, configuration: Mapping[str, object], facts: Mapping[str, object], going_on: Sealed | None = None
    ) -> None:
        """Begin, or go on: write manifest, configuration, status; remove what an earlier start came to.

        Args:
            configuration: The resolved configuration as plain nested maps.
            facts: What the manifest holds beside identity, versions and platform: model, data, hashes.
            going_on: Checkpoint from which the run goes on, which keeps what was logged; None: it begins from nothing.
        """
        status = (read_json(self.path / "status.json") or {}) if going_on else {}
        self.freeze(configuration, facts)
        for name in _OF_ONE_START:
            (self.path / name).unlink(missing_ok=True)
        if going_on is None:
            self.log.path.unlink(missing_ok=True)
        self._status = {
            "state": "running",
            "reason": None,
            "step": going_on.step if going_on else 0,
            "max_steps": going_on.steps if going_on else 0,
            "resumed": [*status.get("resumed", []), going_on.step] if going_on else [],
            "pid": os.getpid(),
            "started": _now(),
            "ended": None,
        }
        write_json(self.path / "status.json", self._status)

    def freeze(self, configuration: Mapping[str, object], facts: Mapping[str, object]) -> None:
        """Write manifest and configuration, as `start` takes them, for a process that runs from them."""
        write_json(self.path / "manifest.json", {"identity": self.identity, **_environment(), **facts})
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True))

    def fail(self, reason: str) -> None:
        """Mark a run as failed whose own process could not."""
        self._status = read_json(self.path / "status.json") or {"step": 0, "max_steps": 0}
        self._end_early("failed", reason)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mark the run complete at the end of the block; preempted on Ctrl-C; failed on any other exception.

        The exception goes on.

        Raises:
            Interrupted: In place of KeyboardInterrupt, with the step at which the run stopped.
            RunFailed: In place of a Refusal, which here no longer comes before everything is loaded.
        """
        try:
            yield
        except KeyboardInterrupt as interrupt:
            self._end_early("preempted", "interrupted by Ctrl-C")
            raise Interrupted(f"interrupted by Ctrl-C {self._where()}") from interrupt
        except (Refusal, RunFailed) as fault:
            self._end_early("failed", str(fault))
            raise RunFailed(f"{fault}\nthe run failed {self._where()}") from fault
        except BaseException as error:
            with contextlib.suppress(OSError):
                write_text(self.path / "traceback.txt", traceback.format_exc())
            self._end_early("failed", f"{type(error).__name__}: {error}")
            raise
        self._mark(state="complete", ended=_now())
        write_text(self.path / "report.html", run_page(self.path))

    def progress(self, step: int, max_steps: int) -> None:
        """Record how many optimizer steps are done."""
        self._mark(step=step, max_steps=max_steps)

    def write_inputs(self, facts: Mapping[str, object], data: PairReport | None) -> None:
        """Add to the manifest what is known only once all is loaded; of pairs write ledger.json and the data report."""
        manifest = read_json(self.path / "manifest.json") or {}
        write_json(self.path / "manifest.json", {**manifest, **facts})
        if data is None:
            return
        write_json(self.path / "ledger.json", data.ledger)
        write_json(self.path / "data.json", data.to_json())
        write_text(self.path / "data.html", pairs_page(data, self.path.name))

    def write_plan(self, lines: Sequence[tuple[str, str]]) -> None:
        """Write the lines of the plan."""
        write_text(self.path / "plan.json", json.dumps(lines, indent=2, ensure_ascii=False))

    def write_results(
        self,
        summary: Mapping[str, object],
        samples: Iterable[Mapping[str, object]],
        ledger: Mapping[str, object],
    ) -> None:
        """Write samples.jsonl, one object a line, the ledger, which a stream has completed, and summary.json.

        The summary of a run that went on gets `resumed`: the steps from which.
        """
        write_json(self.path / "ledger.json", ledger)
        replace(self.path / "samples.jsonl", b"".join(line(sample) for sample in samples))
        resumed = self._status.get("resumed")
        write_json(self.path / "summary.json", {**summary, **({"resumed": resumed} if resumed else {})})

    def samples(self) -> list[dict[str, Any]]:
        """Return what samples.jsonl holds."""
        lines = (self.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _where(self) -> str:
        step, steps = self._status["step"], self._status["max_steps"]
        return f"{f'at step {step} of {steps}' if steps else 'before the first step'}; see {self.path}"

    def _mark(self, **changes: object) -> None:
        self._status |= changes
        write_json(self.path / "status.json", self._status)

    def _end_early(self, state: State, reason: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide the exception that ends the run
            self._mark(state=state, reason=reason, ended=_now())
            write_text(self.path / "report.html", run_page(self.path))

    def _refuse_another_run(self) -> None:
        manifest = read_json(self.path / "manifest.json")
        if manifest is not None and manifest["identity"] != self.identity:
            raise Refusal(
                f"run directory must be empty or hold this run ({self.identity[:8]}), got {self.path}, which "
                f"holds run {manifest['identity'][:8]}: another configuration or other data; set run.dir to "
                "another directory, or to null to name it after the run"
            )


def _refuse_strange(path: Path) -> None:
    """Refuse a directory that holds something, but no run."""
    if not path.is_dir() or (path / "manifest.json").exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if strangers:
        raise Refusal(
            f"run directory must be empty or hold a run (a manifest.json), got {path}, "
            f"which holds {', '.join(strangers[:3])}; set run.dir to another directory"
        )


def _holder(path: Path) -> str:
    try:
        holder = json.loads((path / ".holder.json").read_bytes())
    except (OSError, ValueError):  # it has only just taken the lock
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


def _environment() -> dict[str, object]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "python": platform.python_version(), "platform": platform.platform()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
