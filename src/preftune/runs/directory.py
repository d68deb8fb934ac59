"""One run's directory: its lock, its status, and everything the run leaves behind.

A process killed at any instant leaves no half-written JSON file: each is written beside its place and renamed
into it. Only metrics.jsonl grows in place, one whole line at a time.
"""

import contextlib
import json
import os
import platform
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml
from filelock import FileLock

from preftune.refusals import Interrupted, Refusal, RunFailed, hidden
from preftune.reporting.pair_report import PairReport
from preftune.reporting.pairs_page import pairs_page
from preftune.reporting.run_page import run_page
from preftune.runs import versions
from preftune.runs.changes import Start, allowed_changes, last_checkpoint, refuse_other_inputs
from preftune.runs.event_log import EventLog
from preftune.runs.files import line, read_json, replace, write_json, write_text
from preftune.runs.lock import hold, let_go, sign
from preftune.runs.previous import Previous as Previous
from preftune.runs.previous import State, read_previous, results_of
from preftune.space import failing_plainly
from preftune.training.checkpoints import Sealed

_LOADED = ("model", "template", "data")  # what manifest.json has of the last start's facts
_CODES = {"complete": 0, "failed": 1, "preempted": 143}
_OF_DATA = ("ledger.json", "data.json", "data.html")
_OF_ONE_START = (*_OF_DATA, "plan.json", "samples.jsonl", "summary.json", "report.html", "traceback.txt")


class RunDirectory:
    """A run's directory, held by this process until it is closed. Made by `open`.

    Attributes:
        path: The directory.
        identity: 64 hexadecimal digits, from `identity.identity`.
        identities: That, and those before changes that `run.allow_change` named.
        log: Its metrics.jsonl.
    """

    def __init__(self, path: Path, identity: str, lock: FileLock) -> None:
        self.path = path
        self.log = EventLog(path / "metrics.jsonl")
        self.identity = identity
        self.identities = [identity]
        self._lock = lock
        self._start = Start(identity)
        self._held: dict[str, Any] = {}
        self._changes: list[dict[str, Any]] = []
        self._status: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path, start: Start | str, waiting: Callable[[str], None] | None = None) -> Self:
        """Make the directory where it is missing, and hold it.

        Args:
            path: The directory.
            start: What is to go on there; its identity alone where nothing begins.
            waiting: As `lock.hold` takes it.

        Raises:
            Refusal: The directory is in use, belongs to another run, is no run directory, or cannot be
                written.
        """
        start = Start(start) if isinstance(start, str) else start
        lock = hold(path, waiting)
        directory = cls(path, start.identity, lock)
        try:
            directory._compare(start)
            sign(path)
        except BaseException:
            lock.release()
            raise
        return directory

    def close(self) -> None:
        """Let go of the directory."""
        let_go(self.path, self._lock)

    def __enter__(self) -> Self:
        """Return the directory itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let go of the directory; where the run in it began and did not come to `running`, say how it ended."""
        if error is not None and self._status.get("state") == "running":
            state: State = "preempted" if isinstance(error, KeyboardInterrupt) else "failed"
            self._end_early(state, _reason(error))
        self.close()

    def previous(self) -> Previous | None:
        """Return how an earlier start of this run ended; None where there was none. Read before `start`.

        Raises:
            Refusal: It is complete, and what it came to is not as it was written.
        """
        return read_previous(self.path, [change["key"] for change in self._changes])

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
            "exit_code": None,
            "ended": None,
        }
        write_json(self.path / "status.json", self._status)

    def freeze(self, configuration: Mapping[str, object], facts: Mapping[str, object]) -> None:
        """Write manifest and configuration, as `start` takes them, for a process that runs from them."""
        if self._changes:
            self._status = (read_json(self.path / "status.json") or {}) | {"state": "preempted"}
            write_json(self.path / "status.json", self._status)  # before the manifest: a run that is complete goes on
        goes_on = last_checkpoint(self.path) is not None
        loaded = {key: self._held[key] for key in _LOADED if goes_on and key in self._held}
        manifest = {
            "identity": self.identity,
            "identities": self.identities,
            "made_from": self._start.made_from,
            "versions": versions.versions(),
            "code": versions.code(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            **loaded,
            **facts,
            "changes": [*self._held.get("changes", []), *self._changes],
        }
        write_json(self.path / "manifest.json", manifest)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True))

    def fail(self, reason: str) -> None:
        """Mark a run as failed whose own process could not."""
        self._status = read_json(self.path / "status.json") or {"step": 0, "max_steps": 0}
        self._end_early("failed", reason)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mark the run complete at the end of the block; preempted where it was stopped; failed on other exceptions.

        The exception goes on.

        Raises:
            Interrupted: In place of KeyboardInterrupt, with the step at which the run stopped.
            RunFailed: In place of a Refusal, which here no longer comes before everything is loaded.
        """
        try:
            with failing_plainly(self.path):
                yield
        except KeyboardInterrupt as interrupt:
            self._end_early("preempted", _reason(interrupt))
            raise Interrupted(f"{_reason(interrupt)} {self._where()}") from interrupt
        except (Refusal, RunFailed) as fault:
            self._end_early("failed", str(fault))
            raise RunFailed(f"{fault}\nthe run failed {self._where()}") from fault
        except BaseException as error:
            with contextlib.suppress(OSError):
                write_text(self.path / "traceback.txt", hidden(traceback.format_exc()))
            self._end_early("failed", _reason(error))
            raise
        self._mark(state="complete", exit_code=0, ended=_now(), files=results_of(self.path))
        write_text(self.path / "report.html", run_page(self.path))

    def progress(self, step: int, max_steps: int) -> None:
        """Record how many optimizer steps are done."""
        self._mark(step=step, max_steps=max_steps)

    def write_inputs(self, facts: Mapping[str, object], data: PairReport | None) -> None:
        """Add to the manifest what is known only once all is loaded; of pairs write ledger.json and the data report.

        Raises:
            Refusal: Model, template or data are not those that the checkpoints here are of.
        """
        if last_checkpoint(self.path) is not None:
            refuse_other_inputs(self.path, self._held, facts)
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
            self._mark(state=state, reason=hidden(reason), exit_code=_CODES[state], ended=_now())
            write_text(self.path / "report.html", run_page(self.path))

    def _compare(self, start: Start) -> None:
        """Keep what the directory held, and what of it changes with this start."""
        manifest = read_json(self.path / "manifest.json")
        status = read_json(self.path / "status.json") or {}
        step = last_checkpoint(self.path)
        is_complete = status.get("state") == "complete"
        changes = allowed_changes(self.path, manifest, start, complete=is_complete, checkpoint=step)
        self._start, self._held = start, manifest or {}
        self.identities = list(dict.fromkeys([start.identity, *self._held.get("identities", [])]))
        self._changes = [change.record(step or 0, _now()) for change in changes]


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {error if str(error) else 'Ctrl-C'}"
    return str(error) if isinstance(error, (Refusal, RunFailed)) else f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
