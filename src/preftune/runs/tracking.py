"""A run that W&B watches. The only file that imports wandb.

W&B starts online where credentials exist and the server answers, else offline without asking. An unreachable
server costs at most `server.PATIENCE + _INIT` seconds at the start, `_FINISH + _END` at the end, and never the run.

A run that goes on from a checkpoint keeps its id. Online W&B adds to what is there. Offline each start leaves a
directory of its own with that id, and `wandb sync` uploads them in the order of their starts as one run, the later
behind the earlier. Rows are placed by the metric `step`, so that steps done again come to lie on themselves.

What is written names no machine, account or command line. Only where a table or an artifact waits for its upload does
the log hold the absolute path of its files, which `wandb sync` reads and does not send.
"""

import contextlib
import logging
import math
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.runs import server
from preftune.runs.settings import TrackSettings
from preftune.runs.trackers import Job, Nobody, Tracker, keep_id, kept_id, logged_before

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

_INIT = 10.0  # s
_FINISH = 15.0  # s
_END = 3.0  # s, for W&B's own process once its runs are finished
_BEST = {"eval_loss": min, "eval_accuracy": max}  # kept beside the last value, which the summary holds of every metric


def log_in() -> str | None:
    """Let packages that use wandb find the key; return why they cannot go online, None where they can."""
    try:
        session = _session()
    except failures() as error:
        return f"W&B cannot start: {_first_line(error)}"
    if session.key:
        os.environ["WANDB_API_KEY"] = session.key
    return session.why_offline


class _Wandb(Nobody):
    def __init__(self, run: "wandb.Run", job: Job, description: str) -> None:
        super().__init__(description)
        self._run = run
        self._directory = job.directory
        self._lost = False
        self._step = 0
        self._row = run.starting_step
        self._best: dict[str, float] = {}
        for metrics in logged_before(job):
            self._note_best(metrics)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        self._log_row(metrics)
        if self._note_best(metrics):
            self.summarise(self._best)

    def log_table(self, key: str, rows: list[dict[str, object]]) -> None:
        import wandb

        if not rows:
            return
        with self._losing_touch(), _staged_in(self._directory):
            table = wandb.Table(
                columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True
            )
            self._log_row({key: table})

    def alert(self, title: str, text: str) -> None:
        with self._losing_touch():
            self._run.alert(title, text, level="WARN")

    def keep(self, kind: str, paths: Sequence[Path]) -> None:
        import wandb

        there = [path for path in paths if path.exists()]
        if not there:
            return
        with self._losing_touch(), _staged_in(self._directory):
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{self._directory.resolve().name}-{kind}")
            artifact = wandb.Artifact(name[-128:], type=kind)
            for path in there:
                if path.is_dir():  # of weights no copy is made
                    artifact.add_dir(str(path.absolute()), skip_cache=True, policy="immutable")
                else:
                    artifact.add_file(str(path), skip_cache=True)
            self._run.log_artifact(artifact)

    def summarise(self, summary: Mapping[str, object]) -> None:
        with self._losing_touch():
            self._run.summary.update(dict(summary))

    def finish(self, exit_code: int) -> None:
        from wandb.sdk import wandb_setup

        with self._losing_touch():
            if exit_code == 143:
                self._run.mark_preempting()  # W&B then calls the run preempted, not crashed
            self._run.finish(exit_code=exit_code)
        wandb_setup.singleton().remove_active_run(self._run)  # which `finish` leaves there where its process is gone
        _end_process()

    def _note_best(self, metrics: Mapping[str, object]) -> bool:
        """Keep the best of what `_BEST` names; return whether any of it was there."""
        found = {key: value for key in _BEST if isinstance(value := metrics.get(key), float) and math.isfinite(value)}
        for key, value in found.items():
            name = f"{key}_{_BEST[key].__name__}"
            self._best[name] = _BEST[key](value, self._best.get(name, value))
        return bool(found)

    def _log_row(self, values: Mapping[str, object]) -> None:
        """Log `values` at the step of the last event; rows of one step are one row to W&B."""
        # W&B drops a row whose number is below the last one's, as where steps are done again after a checkpoint: such
        # a row is numbered by W&B, and stands at its place by `step`.
        again = self._step < self._row
        self._row = self._row + 1 if again else self._step
        with self._losing_touch():
            self._run.log({**values, "step": self._step}, step=None if again else self._step)

    @contextlib.contextmanager
    def _losing_touch(self) -> Iterator[None]:
        """Let the run go on where W&B's own process is gone or refuses; say so once."""
        try:
            yield
        except failures() as error:
            if not self._lost:
                _log.warning("W&B is lost, the run goes on without it: %s", error)
            self._lost = True


def start(settings: TrackSettings, job: Job) -> Tracker:
    """Start a run of W&B, online or offline, or say why there is none."""
    nowhere = f"nothing beside {job.directory / 'metrics.jsonl'}"
    known = kept_id(job, "wandb")
    run_id = known or secrets.token_hex(4)  # not WANDB_RUN_ID, which every job of a sweep would share
    try:
        session = _session()
        if session.mode == "disabled":
            return Nobody(f"{nowhere} ({session.why_offline})")
        run, why_offline = None, session.why_offline
        if why_offline is None:
            run, why_offline = _init_online(settings, job, run_id, session)
        run = run or _init(settings, job, run_id, "offline", None)
    except failures() as error:
        _end_process()
        return Nobody(f"{nowhere} (W&B cannot start: {_first_line(error)})")
    keep_id(job, "wandb", run_id)
    if why_offline is None:
        return _Wandb(run, job, f"W&B online, {run.url}")
    upload = f"wandb sync {job.directory}/wandb/offline-run-*-{run_id}"
    return _Wandb(run, job, f"W&B offline ({why_offline}); to upload: {upload}")


def _init_online(
    settings: TrackSettings, job: Job, run_id: str, session: "_Session"
) -> tuple["wandb.Run | None", str | None]:
    """Return a run, or why there is none. A failed attempt leaves no files."""
    earlier = set(_online_runs(job.directory))
    try:
        return _init(settings, job, run_id, "online", session.key), None
    except failures() as error:
        _end_process()  # which holds the id
        for leftover in set(_online_runs(job.directory)) - earlier:
            shutil.rmtree(leftover, ignore_errors=True)
        return None, f"no run at {session.base_url}: {_first_line(error)}"


def _init(settings: TrackSettings, job: Job, run_id: str, mode: Any, key: str | None) -> "wandb.Run":
    import wandb

    run = wandb.init(
        dir=job.directory,
        project=settings.project,
        entity=settings.entity,
        group=job.sweep,
        job_type=job.kind,
        tags=settings.tags,
        name=job.name,
        id=run_id,
        resume="allow" if job.resumed else "never",
        reinit="create_new",
        config=dict(job.configuration),
        mode=mode,
        settings=wandb.Settings(
            api_key=key,  # given outright, so that wandb never asks for one
            silent=True,
            show_errors=False,
            console="off",
            init_timeout=_INIT,
            finish_timeout=_FINISH,
            # The command line, the machine's name, description and packages, the repository and its code stay here.
            host="",
            x_disable_meta=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
        ),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step", step_sync=False)
    return run


@dataclass(frozen=True, slots=True)
class _Session:
    """What W&B would do on this machine, and the key for it."""

    mode: str
    base_url: str
    key: str | None
    why_offline: str | None


def _session() -> _Session:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
    import wandb

    found = wandb.setup(wandb.Settings(silent=True, show_errors=False)).settings
    key = server.api_key(found.base_url) or found.api_key
    why_offline = None
    if found.mode in ("offline", "dryrun", "disabled"):
        why_offline = f"W&B's mode is {found.mode}"
    elif not (key or found.identity_token_file):
        why_offline = "no credentials found"
    elif not server.answers(found.base_url):
        why_offline = f"no answer from {found.base_url} within {server.PATIENCE:.0f} s"
    return _Session(found.mode, found.base_url, key, why_offline)


def _end_process() -> None:
    """End W&B's own process where no run needs it, in bounded time.

    Left to itself it ends by an atexit hook, which a job that multiprocessing forked never runs.
    """
    import wandb
    from wandb.sdk import wandb_setup

    session = wandb_setup.singleton()
    if session.most_recent_active_run is not None:
        return
    process = session._connection._proc if session._connection else None

    def end() -> None:
        with contextlib.suppress(*failures()):
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(_END)
    if ending.is_alive() and process:
        process._process.kill()
        ending.join()


def failures() -> tuple[type[Exception], ...]:
    """Return what W&B raises where its server, its own process or the way to them fails."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    return (wandb.Error, OSError, HandleAbandonedError, MailboxClosedError, ServerResponseError, WandbApiFailedError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _online_runs(directory: Path) -> Iterator[Path]:
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
