"""Signals that end a run early: SIGTERM, SIGUSR1 and SIGUSR2 as Slurm and submitit send them, Ctrl-C.

1. The first of them raises `Interrupted` at once; inside `deferred` it only sets the reason, which the trainer asks for
   after each step.
2. Later ones change nothing, but that a second Ctrl-C raises at once wherever the process is.
3. In a process forked from this one the handlers act as if they were not there: SIGTERM ends it, the others are for the
   process that started it.
4. What listened to a signal before, as submitit does to requeue its job, is told of it at the end.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from preftune.refusals import Interrupted

_NAMES = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGUSR2: "SIGUSR2",
    signal.SIGINT: "Ctrl-C",
}


class Stops:
    """Whether this process was told to stop. Made by `stopping`.

    Attributes:
        within: Those of the block around, in the same process; None where there is none.
    """

    def __init__(self, pass_on: Callable[[], bool] = bool) -> None:
        """Start unasked; `stopping` says what `pass_on` is."""
        self.within: Stops | None = None
        self._pass_on = pass_on
        self._process = os.getpid()
        self._received: list[int] = []
        self._reason: str | None = None
        self._is_deferred = False

    def stop(self) -> str | None:
        """Return what asked for a stop, as `SIGTERM` or `Ctrl-C`; None where nothing did."""
        return self._reason

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block find out by `stop`, and end at a place of its own choice by raising `Interrupted`.

        Raises:
            Interrupted: At the end of the block, where it ended otherwise after a stop was asked for; at once on a
                second Ctrl-C, or where what was raised before was lost, as Python does in a finalizer.
        """
        self._is_deferred = True
        try:
            if self._reason is None:
                yield
        except RuntimeError as error:  # as torch raises it where the same signal has ended a worker of the data loader
            if self._reason is None:
                raise
            raise Interrupted(self._reason) from error
        finally:
            self._is_deferred = False
        if self._reason is not None:
            raise Interrupted(self._reason)

    def disregard(self) -> None:
        """From here on let only a second Ctrl-C stop the process: what it was to do is done."""
        self._is_deferred = True

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self._process:
            _leave_as_a_child(number)
            return
        at_once = number == signal.SIGINT and number in self._received
        is_first = self._reason is None
        self._received.append(number)
        self._reason = self._reason or _NAMES[signal.Signals(number)]
        if at_once or (is_first and not self._is_deferred and not self._pass_on()):
            raise Interrupted(self._reason)

    def tell(self, number: int, before: object) -> None:
        """Hand a signal on to what listened to it `before`."""
        if number not in self._received:
            return
        if self.within is not None:
            self.within._received.append(number)
            self.within._reason = self.within._reason or self._reason
        elif callable(before) and before is not signal.default_int_handler:
            signal.raise_signal(number)


@contextmanager
def stopping(pass_on: Callable[[], bool] = bool) -> Iterator[Stops]:
    """Listen to the signals in the block; outside the main thread, which alone can, do nothing.

    Args:
        pass_on: Called on the first signal that is not deferred: stops others in place of this process, and returns
            whether there were any.

    Raises:
        Interrupted: The process was told to stop.
    """
    stops = Stops(pass_on)
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    heard = [number for number in _NAMES if signal.getsignal(number) is not signal.SIG_IGN]  # as of a shell's `&`
    before = {number: signal.signal(number, stops.hear) for number in heard}
    around = [getattr(handler, "__self__", None) for handler in before.values()]
    stops.within = next((each for each in around if isinstance(each, Stops)), None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NAMES)
    try:
        yield stops
    except Interrupted as interrupted:
        if str(interrupted) == stops.stop():  # nobody has said where
            raise Interrupted(f"stopped by {interrupted}") from interrupted
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number, handler in before.items():
            stops.tell(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let a process that is started in the block meet the signals only once it listens to them by `stopping`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NAMES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def number_of(reason: str) -> signal.Signals:
    """Return the signal that `Stops.stop` calls `reason`."""
    return next(number for number, name in _NAMES.items() if name == reason)


def _leave_as_a_child(number: int) -> None:
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
