"""Several runs side by side: those of a sweep, or any; ranked, with the jobs that differ only in their seed as one.

All is read from the files of the run directories; of a sweep, sweep.json says which they are.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from preftune.refusals import Refusal
from preftune.reporting.axes import SEED, differing, label, written
from preftune.reporting.measures import MEASURES, OBJECTIVES, Measure, Measured, settled
from preftune.reporting.numbers import spelled
from preftune.reporting.run_files import RunFiles, finite, mapping, read_run_files, text_at


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a comparison.

    Attributes:
        number: Its place in the sweep, or among the runs as they were given; from 0.
        axes: Its values of the settings that differ, `seed` among them where it does.
        directory: Its directory as it was named; nothing where it has none.
        state: complete, failed, preempted, killed, not_run, running or unreadable.
        reason: Why it is not complete.
        run: Its files.
        spent: Seconds that the sweep counted; None where it did not.
    """

    number: int
    axes: Mapping[str, Any]
    directory: str
    state: str
    reason: str
    run: RunFiles
    spent: float | None = None

    @property
    def told(self) -> str:
        """How it ended, and why, in one line."""
        reason = self.reason.partition("\n")[0]
        return f"{self.state.replace('_', ' ')}{f': {reason}' if reason else ''}"

    def seconds(self) -> float | None:
        """Return the seconds that the run measured by stage; those that the sweep counted where it measured none."""
        measured = self.run.seconds()
        return self.spent if measured is None else measured


@dataclass(frozen=True, slots=True)
class Spread:
    """A number of a row: the mean over its seeds, with its standard error and what that was taken over.

    Attributes:
        mean: Over the jobs that have the number.
        stderr: Of the mean: over seeds where there are two or more, else the run's own; None where that is unknown.
        n: Jobs that have the number.
        over: What the standard error was taken over, in words.
    """

    mean: float
    stderr: float | None
    n: int
    over: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the ranked table: a job, or the jobs that differ only in their seed.

    Attributes:
        rank: From 1.
        label: What tells it from the others, as a person reads it.
        axes: Its values of the settings that differ, without the seed.
        jobs: One for each seed.
        values: Each measure by its key; None where the runs do not have it.
        verdict: Its word; where seeds differ, each with its count.
        sentence: That of the first job's verdict.
        seconds: Of one job, the mean over its seeds.
        cost: Seconds that its jobs kept the device, all together.
        unit: Of the cost.
    """

    rank: int
    label: str
    axes: Mapping[str, Any]
    jobs: tuple[Job, ...]
    values: Mapping[str, Spread | None]
    verdict: str
    sentence: str
    seconds: float | None
    cost: float | None
    unit: str

    def spelled(self, measure: Measure) -> str:
        """Return a measure as a person reads it, with its standard error where that is known."""
        found = self.values[measure.key]
        return spelled(found.mean, found.stderr, measure.form) if found else spelled(None, None, measure.form)

    @property
    def healthy(self) -> bool:
        """Whether all of its jobs are."""
        return self.verdict == "healthy"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What several runs came to.

    Attributes:
        name: The sweep's, or how many runs they are.
        sweep: sweep.json; empty for runs that are no sweep.
        objective: What they are ranked by, a key of `measures.OBJECTIVES`.
        axes: The settings that differ, without the seed, in their order.
        rows: Best first.
        unranked: The jobs that came to no result.
    """

    name: str
    sweep: Mapping[str, Any]
    objective: str
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    unranked: tuple[Job, ...]

    @property
    def measure(self) -> str:
        """The key of the measure that the objective names."""
        return OBJECTIVES[self.objective]

    def measures(self) -> list[Measure]:
        """Return the measures that some row has, the one that it is ranked by first."""
        ordered = sorted(MEASURES.values(), key=lambda measure: measure.key != self.measure)
        return [measure for measure in ordered if any(row.values[measure.key] for row in self.rows)]


def read_sweep(directory: Path, objective: str | None = None) -> Comparison:
    """Read the sweep whose sweep.json stands in `directory`.

    Args:
        directory: `sweeps/<name>`.
        objective: What to rank by, a key of `measures.OBJECTIVES` or `auto`; None is what the sweep was made with.

    Raises:
        Refusal: sweep.json is missing or cannot be read.
    """
    sweep = _sweep(directory / "sweep.json")
    axes = [axis for axis in sweep.get("axes") or () if isinstance(axis, str)]
    jobs = [_sweep_job(directory, mapping(entry), place) for place, entry in enumerate(sweep["jobs"])]
    asked = objective or text_at(sweep, "objective") or "auto"
    return compare(jobs, axes, asked, text_at(sweep, "name") or directory.resolve().name, sweep)


def read_runs(directories: Sequence[Path], objective: str | None = None) -> Comparison:
    """Read runs that need not be of one sweep.

    Args:
        directories: Their directories, each once.
        objective: What to rank by, a key of `measures.OBJECTIVES` or `auto`; None is `auto`.

    Raises:
        Refusal: One of them is no run's directory, or stands there twice.
    """
    places = [directory.resolve() for directory in directories]
    for place, directory in zip(places, directories, strict=True):
        if not (directory / "manifest.json").is_file():
            raise Refusal(f"{directory} must be a run's directory (a manifest.json) or a sweep's (a sweep.json)")
        if places.count(place) > 1:
            raise Refusal(f"each run must be given once, got {directory} {places.count(place)} times")
    runs = [read_run_files(directory) for directory in directories]
    jobs = [
        Job(place, axes, str(run.path), *_state(text_at(run.status, "state"), text_at(run.status, "reason"), run), run)
        for place, (run, axes) in enumerate(zip(runs, differing([run.config for run in runs]), strict=True))
    ]
    return compare(jobs, [], objective or "auto", f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}", {})


def compare(
    jobs: Sequence[Job], axes: Iterable[str], objective: str, name: str, sweep: Mapping[str, Any]
) -> Comparison:
    """Group `jobs` over seeds and rank them.

    Args:
        jobs: In their order.
        axes: Settings in the order in which they are shown; what else the jobs differ in follows.
        objective: A key of `measures.OBJECTIVES`, or `auto`: the true reward where all jobs know it, else accuracy.
        name: What the whole is called.
        sweep: sweep.json, or nothing.

    Raises:
        Refusal: There is no such objective.
    """
    if objective not in (*OBJECTIVES, "auto"):
        raise Refusal(f"the objective must be one of auto, {', '.join(OBJECTIVES)}, got {objective}")
    jobs = _told_apart(jobs)
    done = [job for job in jobs if job.state == "complete"]
    objective = settled(objective, [job.run for job in done])
    names = tuple(axis for axis in dict.fromkeys([*axes, *(axis for job in jobs for axis in job.axes)]) if axis != SEED)
    groups: dict[str, list[Job]] = {}
    for job in done:
        groups.setdefault(_but_seed(job), []).append(job)
    rows = [_row(tuple(group), names) for group in groups.values()]
    rows.sort(key=lambda row: -_mean(row.values[OBJECTIVES[objective]]))
    ranked = tuple(replace(row, rank=place) for place, row in enumerate(rows, start=1))
    return Comparison(name, sweep, objective, names, ranked, tuple(job for job in jobs if job.state != "complete"))


def _sweep(path: Path) -> Mapping[str, Any]:
    try:
        sweep = mapping(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise Refusal(f"{path.parent} must be a sweep's directory, got one without sweep.json") from None
    except (OSError, ValueError) as error:
        raise Refusal(f"{path} must be JSON that can be read, got {error}") from error
    if not isinstance(sweep.get("jobs"), list):
        raise Refusal(f"{path} must hold a list of jobs; start the sweep again to have it written")
    return sweep


def _sweep_job(directory: Path, entry: Mapping[str, Any], place: int) -> Job:
    named = text_at(entry, "directory")
    # Directories are relative to where the sweep was started, which is two above its own.
    path = Path(named) if Path(named).is_dir() else directory.resolve().parent.parent / named
    run = read_run_files(path if named else directory / "none")
    state, reason = _state(text_at(entry, "state"), text_at(entry, "reason") or text_at(run.status, "reason"), run)
    number = entry.get("number")
    axes = mapping(entry.get("axes"))
    return Job(
        number if isinstance(number, int) else place, axes, named, state, reason, run, finite(entry.get("seconds"))
    )


def _state(state: str, reason: str, run: RunFiles) -> tuple[str, str]:
    if state == "complete" and not run.summary:
        return "unreadable", "its summary.json is missing or cannot be read"
    if state == "running":
        return state, "it goes on, or was killed"
    return state or "unreadable", reason or ("" if state else "its status.json is missing or cannot be read")


def _told_apart(jobs: Sequence[Job]) -> Sequence[Job]:
    """Return the jobs with an axis more, their directory, where some would be told apart by nothing."""
    if len({_key(job.axes) for job in jobs}) == len(jobs):
        return jobs
    return [replace(job, axes={**job.axes, "run": Path(job.directory).name or f"job {job.number}"}) for job in jobs]


def _key(axes: Mapping[str, Any]) -> str:
    return "\0".join(f"{axis}={written(value)}" for axis, value in sorted(axes.items()))


def _but_seed(job: Job) -> str:
    return _key({axis: value for axis, value in job.axes.items() if axis != SEED})


def _row(jobs: tuple[Job, ...], names: Sequence[str]) -> Row:
    axes = {axis: value for axis, value in jobs[0].axes.items() if axis != SEED}
    seeds = ",".join(written(job.axes[SEED]) for job in jobs if SEED in job.axes)
    verdicts = [mapping(job.run.summary.get("verdict")) for job in jobs]
    counted = Counter(text_at(verdict, "word") or "unknown" for verdict in verdicts)
    word = next(iter(counted)) if len(counted) == 1 else ", ".join(f"{count} {word}" for word, count in counted.items())
    spent = [seconds for seconds in (job.seconds() for job in jobs) if seconds is not None]
    units = {"CPU": "core s", "GPU": "GPU s"}
    return Row(
        rank=0,
        label=label(axes, names) or (f"seed={seeds}" if seeds else jobs[0].run.path.name),
        axes=axes,
        jobs=jobs,
        values={key: _spread([measure.of(job.run) for job in jobs]) for key, measure in MEASURES.items()},
        verdict=word,
        sentence=text_at(verdicts[0], "sentence"),
        seconds=fmean(spent) if spent else None,
        cost=sum(spent) if spent else None,
        unit=units.get(jobs[0].run.device(), "s"),
    )


def _spread(measured: Sequence[Measured | None]) -> Spread | None:
    known = [one for one in measured if one is not None]
    if not known:
        return None
    values = [one.value for one in known]
    if len(known) == 1:
        return Spread(values[0], known[0].stderr, 1, known[0].over)
    return Spread(fmean(values), stdev(values) / math.sqrt(len(values)), len(values), f"{len(values)} seeds")


def _mean(spread: Spread | None) -> float:
    return -math.inf if spread is None else spread.mean
