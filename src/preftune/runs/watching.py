"""Starts what watches a run, and ends it: the front of `trackers` and `tracking`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preftune.runs import tracking
from preftune.runs.files import read_json
from preftune.runs.settings import TrackSettings
from preftune.runs.trackers import Job, Nobody, TensorBoard, Trackio
from preftune.runs.trackers import Tracker as Tracker

_DATA_REPORT = ("data.html", "data.json", "ledger.json")


@contextlib.contextmanager
def watching(
    settings: TrackSettings,
    directory: Path,
    configuration: dict[str, Any],
    watch: bool,
    sweep: str | None = None,
    resumed: bool = False,
) -> Iterator[Tracker]:
    """Start tracking; at the end keep the data report and finish with the way the block ends.

    That is 0, or on an exception 1, or 143 where the run was stopped.

    Args:
        settings: Which tracker.
        directory: The run's directory, whose last part names the run.
        configuration: The resolved configuration as plain nested maps.
        watch: False for a run that trains nothing, which nobody needs to watch.
        sweep: As `start_tracker` takes it.
        resumed: As `start_tracker` takes it.
    """
    if not watch:
        settings = TrackSettings(name="none")
    tracker = start_tracker(settings, directory, directory.name, configuration, sweep, resumed)
    exit_code = 1
    try:
        yield tracker
        exit_code = 0
    except KeyboardInterrupt:
        exit_code = 143
        raise
    finally:
        tracker.keep("data-report", [directory / name for name in _DATA_REPORT])
        tracker.keep("report", [directory / "report.html"])
        if settings.log_adapter and not exit_code:
            tracker.keep("model", [directory / "adapter"])  # W&B's registry takes artifacts of that type
        tracker.finish(exit_code)


def start_tracker(
    settings: TrackSettings,
    directory: Path,
    name: str,
    configuration: dict[str, Any],
    sweep: str | None = None,
    resumed: bool = False,
) -> Tracker:
    """Start tracking, before anything heavy is loaded: where results go is decided here.

    Args:
        settings: Which tracker.
        directory: The run's directory; every file lands below it, but for Trackio's.
        name: What the run is called.
        configuration: The resolved configuration as plain nested maps.
        sweep: What the sweep is called that the run is a job of; None for a run on its own.
        resumed: Whether the run goes on from a checkpoint, and so keeps its id.

    Returns:
        A tracker of its own for each call, also within one process.
    """
    return _start(settings, Job(directory, name, configuration, sweep, resumed=resumed))


def log_sweep_report(settings: TrackSettings, name: str, directory: Path) -> str | None:
    """Show what a sweep came to: W&B gets a run in the sweep's group, with a table of the jobs and the report's files.

    Args:
        settings: Which tracker; with any but W&B nothing is done.
        name: What the sweep is called.
        directory: The sweep's directory, which holds `sweep.json`. Its report again continues the same W&B run.

    Returns:
        One line that says where it went; None where it went nowhere.
    """
    report = read_json(directory / "sweep.json")
    if settings.name != "wandb" or report is None:
        return None
    configuration = {"sweep": {key: report.get(key) for key in ("name", "objective", "axes")}}
    tracker = _start(settings, Job(directory, f"sweep-{name}", configuration, name, "sweep", resumed=True))
    jobs = report["jobs"]
    axes = sorted({axis for job in jobs for axis in job["axes"]})
    facts = ("state", "code", "reason", "seconds", "directory")
    rows = [
        {"job": job["number"]} | {axis: job["axes"].get(axis) for axis in axes} | {key: job.get(key) for key in facts}
        for job in jobs
    ]
    tracker.log_table("jobs", rows)
    tracker.summarise({"jobs": len(jobs), "complete": sum(job["state"] == "complete" for job in jobs)})
    kinds = {".json", ".csv", ".png", ".html"}
    files = [path for path in directory.iterdir() if path.suffix in kinds and path.name != "tracking.json"]
    tracker.keep("sweep-report", sorted(files))
    tracker.finish(0)
    return tracker.describe()


def _start(settings: TrackSettings, job: Job) -> Tracker:
    if settings.name == "wandb":
        return tracking.start(settings, job)
    if settings.name == "tensorboard":
        return TensorBoard(job)
    if settings.name == "trackio":
        return Trackio(settings.project or "", job)
    return Nobody(f"nothing beside {job.directory / 'metrics.jsonl'}")
