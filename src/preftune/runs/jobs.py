"""A job in a process of its own, which runs from the configuration that is frozen in its run's directory.

1. On Linux without a GPU the process is forked from a server that has imported the stack once and holds no model;
   a library that meets a GPU touches it when it is imported, so elsewhere each process imports for itself.
2. What the job prints goes to output.log in its run's directory; it ends by the exit code of a run on its own.
3. A job has a process group of its own: Ctrl-C at a terminal reaches the parent, which passes on what stops it and
   waits. A job whose parent is gone is stopped, too.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml

from preftune.runs.exits import exits
from preftune.runs.slots import device_slot, devices
from preftune.runs.stops import Stops, held_back, number_of, stopping

_LOOK = 0.2  # s between two looks at a job


def run_alone(recipe: str, directory: Path, stops: Stops, look: Callable[[], None] = lambda: None) -> int:
    """Run the job that is frozen in `directory`, and wait for it.

    Args:
        recipe: Module with a function `run`, which takes a resolved configuration.
        directory: The run's directory, with its config.yaml.
        stops: What stops this process stops the job, which is waited for; a second Ctrl-C kills it.
        look: Called every now and then while the job runs.

    Returns:
        Its exit code; below 0 the number of the signal that killed it.
    """
    process: BaseProcess | None = None
    with device_slot() as device:
        try:
            with stops.deferred():
                process = _started(recipe, directory, device)
                _watch(process, stops, look)
        except KeyboardInterrupt:
            if process is None:
                raise
            if process.is_alive():
                process.kill()
                process.join()
                raise
        return process.exitcode or 0


def _started(recipe: str, directory: Path, device: str | None) -> BaseProcess:
    process = _context().Process(target=_job, args=(recipe, str(directory), device))
    resource_tracker.ensure_running()  # where it is not, starting the process would let the signals in
    with held_back():
        process.start()
    return process


def _watch(process: BaseProcess, stops: Stops, look: Callable[[], None]) -> None:
    is_told = False
    while process.is_alive():
        process.join(_LOOK)
        look()
        if not is_told and (reason := stops.stop()) and process.pid:
            os.kill(process.pid, number_of(reason))
            is_told = True


def _context() -> ForkServerContext | SpawnContext:
    is_plain = sys.platform == "linux" and not devices() and not Path("/dev/kfd").exists()
    # a job takes over its parent's default, and in joblib's workers that is one which no other process knows
    multiprocessing.set_start_method("forkserver" if is_plain else "spawn", force=True)
    if not is_plain:
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(["preftune.runs.warm"])
    return multiprocessing.get_context("forkserver")


def _job(recipe: str, directory: str, device: str | None) -> None:
    os.setpgid(0, 0)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with (Path(directory) / "output.log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with exits(), stopping():
        threading.Thread(target=_stop_without_parent, daemon=True).start()
        importlib.import_module(recipe).run(yaml.safe_load((Path(directory) / "config.yaml").read_bytes()))


def _stop_without_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
