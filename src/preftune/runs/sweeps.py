"""A sweep and its jobs: each is a run with a directory and a process of its own.

Starting the same sweep again does only what is not complete.
"""

import multiprocessing
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from preftune.caches import key_of
from preftune.refusals import Interrupted, Refusal, RunFailed
from preftune.reporting.comparison import read_sweep
from preftune.reporting.comparison_files import write_comparison
from preftune.reporting.comparison_terminal import print_comparison
from preftune.reporting.inert import inert
from preftune.reporting.measures import MEASURES, OBJECTIVES, settled
from preftune.reporting.run_files import read_run_files
from preftune.runs.directory import RunDirectory
from preftune.runs.exits import exits
from preftune.runs.files import read_json
from preftune.runs.identity import identity
from preftune.runs.jobs import run_alone
from preftune.runs.opening import open_run
from preftune.runs.search import search_overrides
from preftune.runs.settings import TrackSettings
from preftune.runs.stops import Stops, stopping
from preftune.runs.sweep_record import Sweep
from preftune.runs.watching import log_sweep_report

_ENDED_WELL = "complete"
_OF_CODE = {0: "complete", 143: "preempted"}


def varied(overrides: Sequence[str], axes: Sequence[str]) -> tuple[str, ...]:
    """Return those of a job's overrides that vary, without `+`."""
    bare = [override.lstrip("+") for override in overrides]
    return tuple(override for override in bare if override.partition("=")[0] in axes)


@contextmanager
def sweeping(
    argv: Sequence[str],
    command: Sequence[str],
    axes: Sequence[str],
    jobs: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    search: Sequence[str] = (),
) -> Iterator[list[str]]:
    """Hold the sweep while its jobs run inside the block, and conclude it; leave nothing where none trains.

    Args:
        argv: What Hydra takes of the command line.
        command: The overrides as typed.
        axes: Keys and groups that vary.
        jobs: The overrides of each job, and its resolved configuration.
        search: Where a sweeper chooses the jobs, the overrides that say among which: `jobs` are examples then.

    Yields:
        `argv` with what tells each job the sweep's name, and a sweeper that searches what it has found before.

    Raises:
        Refusal: The sweep is under way elsewhere, or its name belongs to another.
        RunFailed: A job did not complete.
        Interrupted: The sweep was stopped.
    """
    if not jobs:
        yield list(argv)
        return
    if jobs[0][1]["dry_run"]:
        with tempfile.TemporaryDirectory() as scratch:  # Hydra keeps a file of every sweep
            yield [*argv, f"hydra.sweep.dir={scratch}"]
        return
    settings, started = jobs[0][1]["sweep"], time.monotonic()
    identified = key_of(sorted(identity(resolved, {}) for _, resolved in jobs), sorted(search))
    sweep = Sweep(settings["name"] or f"{_joined(axes)}-{identified[:8]}")
    about = {"name": sweep.directory.name, "identity": identified, "objective": settings["objective"]}
    about |= {"command": list(command), "axes": list(axes), "search": list(search)}
    with sweep.held(), stopping(sweep.stop_elsewhere) as stops:
        sweep.begin(about, [] if search else [varied(overrides, axes) for overrides, _ in jobs])
        try:
            found = search_overrides(sweep.directory, command) if search else []
            yield [*argv, f"++sweep.name={sweep.directory.name}", *found]
            if reason := stops.stop():
                raise Interrupted(reason)
        except KeyboardInterrupt as interrupt:
            _conclude(sweep, started, jobs[0][1])
            reason = f"stopped by {stops.stop() or 'Ctrl-C'}"
            raise Interrupted(f"{reason}; the same command goes on; see {sweep.directory}") from interrupt
        ended = _conclude(sweep, started, jobs[0][1])
    refuse_failures(sweep.directory, ended)


def _conclude(sweep: Sweep, started: float, resolved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Close the record, show, write and track what the sweep came to, and return its jobs."""
    jobs = sweep.conclude(started)
    comparison = read_sweep(sweep.directory)
    print_comparison(comparison, write_comparison(sweep.directory, comparison))
    if any(job.get("trained") for job in jobs):
        log_sweep_report(TrackSettings.model_validate(resolved["track"]), sweep.directory.name, sweep.directory)
    return jobs


def refuse_failures(directory: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise for jobs that did not complete, naming each."""
    lines = [f"  {' '.join(job['overrides'])}: {_ending(job)}" for job in jobs if job["state"] != _ENDED_WELL]
    if lines:
        raise RunFailed(
            f"{len(lines)} of {len(jobs)} jobs did not complete; the same command runs those again; see {directory}\n"
            + "\n".join(lines)
        )


def launch(recipe: str, run: Callable[[dict[str, Any]], None], resolved: dict[str, Any]) -> float | None:
    """Do what Hydra asks for now: a run here, or a job of a sweep that trains as `do_job` says.

    Args:
        recipe: Module that holds `run`.
        run: Does a run of a resolved configuration.
        resolved: The configuration.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN and not resolved["dry_run"]:
        return do_job(recipe, resolved)
    with exits():
        run(resolved)
    return None


def do_job(recipe: str, resolved: Mapping[str, Any]) -> float | None:
    """Do one job of a sweep, unless it is complete, and record how it ended.

    Args:
        recipe: As `run_alone` takes it.
        resolved: The job's resolved configuration.

    Returns:
        What the sweep's objective is for the job; None where it is not complete.
    """
    sweep = Sweep(resolved["sweep"]["name"])
    with stopping() as stops:
        value = _do_job(sweep, recipe, resolved, stops)
        if stops.within and (reason := stops.stop()):
            raise Interrupted(reason)
        return value  # a launcher that has other processes would kill them on an exception


def _do_job(sweep: Sweep, recipe: str, resolved: Mapping[str, Any], stops: Stops) -> float | None:
    record = sweep.read()
    mine = varied(HydraConfig.get().overrides.task, record["axes"])
    number = sweep.record(mine, state="running", reason=None, pid=os.getpid(), host=socket.gethostname())
    if reason := _why_not_run(sweep, record, resolved):
        sweep.record(mine, state="not_run", reason=reason)
        return None
    of = "" if record["search"] else f"/{len(record['jobs'])}"
    told = _Told(f"{number + 1}{of}", " ".join(mine))
    started = time.monotonic()
    try:
        path, trained, code = _run(recipe, resolved, partial(sweep.record, mine), told, stops)
    except KeyboardInterrupt:
        sweep.record(mine, state="preempted", code=143, reason=f"stopped by {stops.stop() or 'Ctrl-C'}")
        return None
    except Refusal as refusal:
        sweep.record(mine, state="failed", code=2, reason=str(refusal))
        told.end("failed", str(refusal), None, 0.0)
        return None
    state, reason = _how(path, code)
    seconds = round(time.monotonic() - started, 1)
    sweep.record(mine, state=state, code=code, reason=reason, trained=trained, seconds=seconds)
    told.end(state if trained else "complete before", reason, path, seconds)
    return objective_of(path, resolved["sweep"]["objective"]) if state == _ENDED_WELL else None


def _why_not_run(sweep: Sweep, record: Mapping[str, Any], resolved: Mapping[str, Any]) -> str | None:
    if sweep.is_stopped:
        return "the sweep was stopped"
    if resolved["sweep"]["fail_fast"] and any(job["state"] in ("failed", "killed") for job in record["jobs"]):
        return "an earlier job failed, and sweep.fail_fast is true"
    return None


def objective_of(path: Path, objective: str) -> float | None:
    """Return what a complete run came to by `objective`; None where that was not measured."""
    run = read_run_files(path)
    measured = MEASURES[OBJECTIVES[settled(objective, [run])]].of(run)
    return None if measured is None else measured.value


def _run(
    recipe: str, resolved: Mapping[str, Any], record: Callable[..., object], told: "_Told", stops: Stops
) -> tuple[Path, bool, int]:
    """Return the job's directory, whether it had to run, and its exit code."""
    with open_run(resolved, scratch=False) as directory:
        record(directory=str(directory.path))
        previous = directory.previous()
        if previous and previous.complete:
            return directory.path, False, 0
        directory.freeze(resolved, {})
    with told.watching(directory.path) as look:
        code = run_alone(recipe, directory.path, stops, look)
    status = read_json(directory.path / "status.json") or {}
    if code not in _OF_CODE and status.get("state", "running") == "running":  # it could not say so itself
        with RunDirectory.open(directory.path, directory.identity) as dead:
            dead.fail(_killed(code) if code < 0 else f"exit code {code}; see {directory.path}/output.log")
    return directory.path, True, code


def _how(path: Path, code: int) -> tuple[str, str | None]:
    """Return how a job ended, and why where it did not complete."""
    state = "killed" if code < 0 else _OF_CODE.get(code, "failed")
    return state, None if state == _ENDED_WELL else (read_json(path / "status.json") or {}).get("reason")


def _killed(code: int) -> str:
    often = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{often}"


def _ending(job: Mapping[str, Any]) -> str:
    reason = str(job.get("reason") or "").splitlines()
    return f"{job['state']}{f', {reason[0]}' if reason else ''}"


class _Told:
    """What the terminal is told of a job: a bar while it runs, and a line when it has ended."""

    def __init__(self, place: str, name: str) -> None:
        self.console = Console(highlight=False)
        self.place, self.name = place, name

    @contextmanager
    def watching(self, path: Path) -> Iterator[Any]:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        is_alone = self.console.is_terminal and multiprocessing.parent_process() is None
        with Progress(*columns, console=self.console, transient=True, disable=not is_alone) as progress:
            task = progress.add_task(f"{self.place}  {self.name}", total=None)

            def look() -> None:
                status = read_json(path / "status.json") or {}
                progress.update(task, completed=status.get("step", 0), total=status.get("max_steps") or None)

            yield look

    def end(self, state: str, reason: str | None, path: Path | None, seconds: float) -> None:
        words = [self.place, self.name, state, f"{seconds:,.0f} s", str(path or "")]
        self.console.print(Text("  ".join(word for word in words if word)), soft_wrap=True)
        if reason:
            self.console.print(Text(inert(f"    {reason.splitlines()[0]}"), "yellow"), soft_wrap=True)


def _joined(axes: Sequence[str]) -> str:
    return re.sub(r"[^\w.-]", "_", "-".join(axes))[:80].lstrip("_.-") or "one"
