"""What every tracker of a run does, and the trackers that stay on this machine: TensorBoard, Trackio, nobody."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preftune.runs.files import read_json, write_json


@dataclass(frozen=True, slots=True)
class Job:
    """What is tracked.

    Attributes:
        directory: Where its files land.
        name: What it is called.
        configuration: Plain nested maps.
        sweep: What the sweep is called that it belongs to; None for a run on its own.
        kind: `train`, or `sweep` for the report of one.
        resumed: Whether it goes on from a checkpoint, and so keeps its id.
    """

    directory: Path
    name: str
    configuration: Mapping[str, Any]
    sweep: str | None = None
    kind: str = "train"
    resumed: bool = False


class Tracker(Protocol):
    """Where a run's metrics, samples and summary go beside its own directory."""

    def describe(self) -> str:
        """Return one line for the plan: where results go, and why there."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one event at optimizer step `step`. Several events of one step are all kept, and share its place."""
        ...

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        """Show texts sampled at fixed prompts, as the table `samples`."""
        ...

    def log_table(self, key: str, rows: list[dict[str, object]]) -> None:
        """Show a table at the step of the last event; every row has the same keys."""
        ...

    def alert(self, title: str, text: str) -> None:
        """Tell a person who is not looking; the title has fewer than 64 characters. Only W&B does, where online."""
        ...

    def keep(self, kind: str, paths: Sequence[Path]) -> None:
        """Keep files and directories as one versioned thing of the run. Only W&B does, as an artifact of that type."""
        ...

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Record what the run came to."""
        ...

    def finish(self, exit_code: int) -> None:
        """End the tracked run; 0 is success, 143 a stop from which it goes on. Bounded in time, leaves no process."""
        ...


class Nobody:
    """Tracks nothing."""

    def __init__(self, description: str) -> None:
        """Keep why."""
        self._description = description

    def describe(self) -> str:
        """Return it."""
        return self._description

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        """Log the table `samples`."""
        self.log_table("samples", rows)

    def log_table(self, key: str, rows: list[dict[str, object]]) -> None:
        """Do nothing."""

    def alert(self, title: str, text: str) -> None:
        """Do nothing."""

    def keep(self, kind: str, paths: Sequence[Path]) -> None:
        """Do nothing."""

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class TensorBoard(Nobody):
    """Event files in the run's directory."""

    def __init__(self, job: Job) -> None:
        """Open them, and write the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        directory = job.directory / "tensorboard"
        super().__init__(f"TensorBoard (`tensorboard --logdir {directory}` shows it)")
        self._writer = SummaryWriter(str(directory))
        self._add_text("configuration", job.configuration)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each metric."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def log_table(self, key: str, rows: list[dict[str, object]]) -> None:
        """Add each row as text."""
        for place, row in enumerate(rows):
            self._add_text(f"{key}/{place}", row)

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Add it as text."""
        self._add_text("summary", summary)

    def finish(self, exit_code: int) -> None:
        """Close the files."""
        self._add_text("exit_code", exit_code)
        self._writer.close()

    def _add_text(self, tag: str, value: object) -> None:
        # Four spaces make Markdown show the text as it is, whatever a model wrote.
        text = _as_json(value).replace("\n", "\n    ")
        self._writer.add_text(tag, f"    {text}")


class Trackio(Nobody):
    """A project of Trackio in Trackio's own directory, where its dashboard finds all runs beside each other."""

    def __init__(self, project: str, job: Job) -> None:
        """Open the run; nothing goes to a server or a Space, whatever the environment names."""
        from trackio.run import Run
        from trackio.utils import TRACKIO_DIR

        class LocalRun(Run):
            def _get_username(self) -> str | None:
                """Leave the account out, for which Trackio would ask the hub."""
                return None

        show = f"`trackio show --project {project}` shows it"
        super().__init__(f"Trackio, project {project} in {_short(Path(TRACKIO_DIR))} ({show})")
        # `trackio.init` would follow TRACKIO_SPACE_ID, print, and end the process's run before.
        self._run: Any = LocalRun(
            url=None,
            project=project,
            client=None,
            name=job.name,
            run_id=kept_id(job, "trackio"),
            group=job.sweep,
            config=dict(job.configuration),
        )
        keep_id(job, "trackio", self._run.id)
        self._step = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics at the step."""
        self._step = step
        self._run.log(dict(metrics), step=step)

    def log_table(self, key: str, rows: list[dict[str, object]]) -> None:
        """Log it."""
        import trackio

        if rows:
            table = trackio.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._run.log({key: table}, step=self._step)

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Log it as text."""
        import trackio

        self._run.log({"summary": trackio.Markdown(f"```json\n{_as_json(summary)}\n```")}, step=self._step)

    def finish(self, exit_code: int) -> None:
        """Write what waits; Trackio's words about it are not shown."""
        with contextlib.redirect_stdout(None):
            self._run.finish()


def kept_id(job: Job, tracker: str) -> str | None:
    """Return the id under which `tracker` knows a job that goes on; None where it begins from nothing."""
    kept = read_json(job.directory / "tracking.json") if job.resumed else None
    return str(kept["id"]) if kept and kept.get("tracker") == tracker else None


def keep_id(job: Job, tracker: str, run_id: str) -> None:
    """Write the id for a later start that goes on from a checkpoint."""
    write_json(job.directory / "tracking.json", {"tracker": tracker, "id": run_id})


def logged_before(job: Job) -> Iterator[dict[str, Any]]:
    """Yield the events of a job that goes on, from its metrics.jsonl; none where it begins from nothing."""
    file = job.directory / "metrics.jsonl"
    if job.resumed and file.exists():
        whole = file.read_bytes().rpartition(b"\n")[0]  # a kill may have torn the last line
        yield from map(json.loads, whole.splitlines())


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, default=str)


def _short(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
