"""Work on the pieces of a source, in several processes where there are pieces enough."""

import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from preftune.refusals import RunFailed

T = TypeVar("T")
R = TypeVar("R")

_FEW = 4  # pieces below which starting processes costs more than they save


def mapped(work: Callable[[T], R], pieces: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """Yield `work(piece)` for each piece, in order.

    Args:
        work: Any callable; forked processes inherit it.
        pieces: Handed to the processes as they are taken off, a few ahead, so that a long source needs no memory.
        workers: Processes; None for one a core. With 1, or for a few pieces, all is done in this process.

    Raises:
        RunFailed: A process ended before its work was done.
    """
    workers = workers or _cores()
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, _FEW))
    pieces = itertools.chain(first, pieces)
    if workers == 1 or len(first) < _FEW or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, pieces)
        return
    with _pool(work, workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(_do, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise
        except Exception:
            # only here: where the pool's processes are gone it ends what waits itself, and trips over what is cancelled
            for future in waiting:
                future.cancel()
            raise


@contextmanager
def _pool(work: Callable[[T], R], workers: int) -> Iterator[ProcessPoolExecutor]:
    # Forked: a spawned process would import transformers first. No worker touches a device.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(work,)) as pool:
        try:
            yield pool
        except (KeyboardInterrupt, GeneratorExit):
            for process in list((pool._processes or {}).values()):
                process.terminate()  # nobody waits for what it has begun
            raise
        except BrokenProcessPool as broken:
            raise RunFailed(
                "each process that works on the data must go on to the end, got one that was killed or ended; most "
                "often memory ran out"
            ) from broken


def _cores() -> int:
    # Those that this process may use, where the system tells.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_work: Callable[..., Any]


def _start(work: Callable[..., Any]) -> None:
    global _work
    _work = work
    gc.freeze()  # a collection would write to every page that is shared with the parent, and so copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool ends what is left of it so; a handler would go on
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(piece: Any) -> Any:
    return _work(piece)
