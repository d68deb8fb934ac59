"""A job in a process of its own, which runs from the configuration that is frozen in its run's directory.

1. On Linux without a GPU the process is forked from a server that has imported the stack once and holds no model;
   a library that meets a GPU touches it when it is imported, so elsewhere each process imports for itself.
2. What the job prints goes to output.log in its run's directory; it ends by the exit code of a run on its own.
3. A job whose parent is gone is interrupted, as by Ctrl-C.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import yaml

from preftune.runs.exits import exits
from preftune.runs.slots import device_slot, devices

_LOOK = 0.2  # s between two looks at a job


def run_alone(recipe: str, directory: Path, look: Callable[[], None] = lambda: None) -> int:
    """Run the job that is frozen in `directory`, and wait for it.

    Args:
        recipe: Module with a function `run`, which takes a resolved configuration.
        directory: The run's directory, with its config.yaml.
        look: Called every now and then while the job runs.

    Returns:
        Its exit code; below 0 the number of the signal that killed it.
    """
    with device_slot() as device:
        process = _context().Process(target=_job, args=(recipe, str(directory), device))
        process.start()
        try:
            while process.is_alive():
                process.join(_LOOK)
                look()
        except KeyboardInterrupt:  # the job has its own, and marks its run as preempted
            process.join()
            raise
        return process.exitcode or 0


def _context() -> ForkServerContext | SpawnContext:
    is_plain = sys.platform == "linux" and not devices() and not Path("/dev/kfd").exists()
    # a job takes over its parent's default, and in joblib's workers that is one which no other process knows
    multiprocessing.set_start_method("forkserver" if is_plain else "spawn", force=True)
    if not is_plain:
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(["preftune.runs.warm"])
    return multiprocessing.get_context("forkserver")


def _job(recipe: str, directory: str, device: str | None) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threading.Thread(target=_interrupt_without_parent, daemon=True).start()
    with (Path(directory) / "output.log").open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with exits():
        importlib.import_module(recipe).run(yaml.safe_load((Path(directory) / "config.yaml").read_bytes()))


def _interrupt_without_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
