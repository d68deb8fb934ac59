"""Who watches a run beside its own directory: W&B, TensorBoard, or nobody. The only file that imports wandb.

W&B starts online where credentials exist and the server answers, else offline without asking. An unreachable
server costs at most `server.PATIENCE + _INIT` seconds at the start, `_FINISH` at the end, and never the run.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from preftune.runs import server
from preftune.runs.settings import TrackSettings

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

_INIT = 10.0  # s
_FINISH = 15.0  # s


class Tracker(Protocol):
    """Where a run's metrics, samples and summary go beside its own directory."""

    def describe(self) -> str:
        """Return one line for the plan: where results go, and why there."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one event at optimizer step `step`."""
        ...

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        """Show sampled texts; every row has the same keys."""
        ...

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Record what the run came to."""
        ...

    def alert(self, title: str, text: str) -> None:
        """Tell a person who is not at the terminal."""
        ...

    def finish(self, exit_code: int) -> None:
        """End the tracked run; 0 is success. Returns in bounded time."""
        ...


def start_tracker(settings: TrackSettings, directory: Path, name: str, configuration: dict[str, Any]) -> Tracker:
    """Start tracking, before anything heavy is loaded: where results go is decided here.

    Args:
        settings: Which tracker.
        directory: The run's directory; every file lands below it.
        name: What the run is called.
        configuration: The resolved configuration as plain nested maps.

    Returns:
        A tracker of its own for each call, also within one process.
    """
    if settings.name == "wandb":
        return _start_wandb(settings, directory, name, configuration)
    if settings.name == "tensorboard":
        return _TensorBoard(directory, configuration)
    return _Nobody(f"nothing beside {directory / 'metrics.jsonl'}")


class _Nobody:
    def __init__(self, description: str) -> None:
        self._description = description

    def describe(self) -> str:
        return self._description

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        pass

    def summarise(self, summary: Mapping[str, object]) -> None:
        pass

    def alert(self, title: str, text: str) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


class _TensorBoard:
    def __init__(self, directory: Path, configuration: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory / "tensorboard"
        self._writer = SummaryWriter(str(self._directory))
        self._add_text("configuration", configuration)

    def describe(self) -> str:
        return f"TensorBoard (`tensorboard --logdir {self._directory}` shows it)"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        for place, row in enumerate(rows):
            self._add_text(f"samples/{place}", row)

    def summarise(self, summary: Mapping[str, object]) -> None:
        self._add_text("summary", summary)

    def alert(self, title: str, text: str) -> None:
        self._add_text(f"alert/{title}", text)

    def finish(self, exit_code: int) -> None:
        self._add_text("exit_code", exit_code)
        self._writer.close()

    def _add_text(self, tag: str, value: object) -> None:
        # Four spaces make Markdown show the text as it is, whatever a model wrote.
        text = json.dumps(value, indent=2, default=str).replace("\n", "\n    ")
        self._writer.add_text(tag, f"    {text}")


class _Wandb:
    def __init__(self, run: "wandb.Run", directory: Path, description: str) -> None:
        self._run = run
        self._directory = directory
        self._description = description
        self._lost = False

    def describe(self) -> str:
        return self._description

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        with self._losing_touch():
            self._run.log(dict(metrics), step=step)

    def log_samples(self, rows: list[dict[str, object]]) -> None:
        import wandb

        if not rows:
            return
        columns: list[str | int] = list(rows[0])
        with self._losing_touch(), _staged_in(self._directory):
            table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
            self._run.log({"samples": table})

    def summarise(self, summary: Mapping[str, object]) -> None:
        with self._losing_touch():
            self._run.summary.update(dict(summary))

    def alert(self, title: str, text: str) -> None:
        with self._losing_touch():
            self._run.alert(title=title, text=text, level="WARN")

    def finish(self, exit_code: int) -> None:
        with self._losing_touch():
            self._run.finish(exit_code=exit_code)

    @contextlib.contextmanager
    def _losing_touch(self) -> Iterator[None]:
        """Let the run go on where W&B's own process is gone or refuses; say so once."""
        try:
            yield
        except _failures() as error:
            if not self._lost:
                _log.warning("W&B is lost, the run goes on without it: %s", error)
            self._lost = True


def _start_wandb(settings: TrackSettings, directory: Path, name: str, configuration: dict[str, Any]) -> Tracker:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
    import wandb

    try:
        session = wandb.setup(wandb.Settings(silent=True, show_errors=False)).settings
        if session.mode == "disabled":
            return _Nobody(f"nothing beside {directory / 'metrics.jsonl'} (W&B's mode is disabled)")
        key = server.api_key(session.base_url) or session.api_key
        why_offline = _why_offline(session.mode, session.base_url, bool(key or session.identity_token_file))
        if why_offline is None:
            run = _init_online(settings, directory, name, configuration, key)
            if not isinstance(run, str):
                return _Wandb(run, directory, f"W&B online, {run.url}")
            why_offline = f"no run at {session.base_url}: {run}"
        run = _init(settings, directory, name, configuration, "offline", None)
    except _failures() as error:
        return _Nobody(f"nothing beside {directory / 'metrics.jsonl'} (W&B cannot start: {_first_line(error)})")
    upload = f"wandb sync {directory}/wandb/offline-run-*"
    return _Wandb(run, directory, f"W&B offline ({why_offline}); to upload: {upload}")


def _init_online(
    settings: TrackSettings, directory: Path, name: str, configuration: dict[str, Any], key: str | None
) -> "wandb.Run | str":
    """Return a run, or why there is none. A failed attempt leaves no files."""
    earlier = set(_wandb_runs(directory))
    try:
        return _init(settings, directory, name, configuration, "online", key)
    except _failures() as error:
        for leftover in set(_wandb_runs(directory)) - earlier:
            shutil.rmtree(leftover, ignore_errors=True)
        return _first_line(error)


def _init(
    settings: TrackSettings,
    directory: Path,
    name: str,
    configuration: dict[str, Any],
    mode: Any,
    key: str | None,
) -> "wandb.Run":
    import wandb

    return wandb.init(
        dir=directory,
        project=settings.project,
        entity=settings.entity,
        tags=settings.tags,
        name=name,
        id=secrets.token_hex(4),  # not WANDB_RUN_ID, which every job of a sweep would share
        resume="never",
        reinit="create_new",
        config=configuration,
        mode=mode,
        settings=wandb.Settings(
            api_key=key,  # given outright, so that wandb never asks for one
            silent=True,
            show_errors=False,
            console="off",
            init_timeout=_INIT,
            finish_timeout=_FINISH,
            # The command line, the machine's description, the repository and its code stay here.
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
        ),
    )


def _why_offline(mode: str, base_url: str, has_credentials: bool) -> str | None:
    """Return why W&B runs offline; None where it can go online."""
    if mode in ("offline", "dryrun"):
        return f"W&B's mode is {mode}"
    if not has_credentials:
        return "no credentials found"
    if not server.answers(base_url):
        return f"no answer from {base_url} within {server.PATIENCE:.0f} s"
    return None


def _failures() -> tuple[type[Exception], ...]:
    """Return what W&B raises where its server, its own process or the way to them fails."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return (wandb.Error, OSError, HandleAbandonedError, MailboxClosedError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _wandb_runs(directory: Path) -> Iterator[Path]:
    return (directory / "wandb").glob("run-*")


@contextlib.contextmanager
def _staged_in(directory: Path) -> Iterator[None]:
    """Let W&B stage files to upload below `directory`; it knows no setting for that but the environment."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory.absolute() / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


@contextlib.contextmanager
def tracking(settings: TrackSettings, directory: Path, configuration: dict[str, Any], watch: bool) -> Iterator[Tracker]:
    """Start tracking, and finish with the way the block ends: 0, or 1 on any exception.

    Args:
        settings: Which tracker.
        directory: The run's directory, whose last part names the run.
        configuration: The resolved configuration as plain nested maps.
        watch: False for a run that trains nothing, which nobody needs to watch.
    """
    if not watch:
        settings = TrackSettings(name="none")
    tracker = start_tracker(settings, directory, directory.name, configuration)
    try:
        yield tracker
    except BaseException:
        tracker.finish(1)
        raise
    tracker.finish(0)
