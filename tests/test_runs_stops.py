"""Signals that stop a process: when they raise, when they wait, and whom else they reach."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from preftune.refusals import Interrupted, Refusal, RunFailed
from preftune.runs.exits import exits
from preftune.runs.stops import Stops, held_back, number_of, stopping

NAMES = [
    (signal.SIGTERM, "SIGTERM"),
    (signal.SIGUSR1, "SIGUSR1"),
    (signal.SIGUSR2, "SIGUSR2"),
    (signal.SIGINT, "Ctrl-C"),
]


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "name"), NAMES)
def test_a_signal_raises_at_once_and_says_which(number: signal.Signals, name: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"^stopped by {name}$"), stopping() as stops:
        send(number)
    assert stops.stop() == name
    assert number_of(name) == number
    assert signal.getsignal(number) is before


def stopped(body: Callable[[Stops], object], *, deferred: bool = True) -> str:
    """Return how `body` was stopped."""
    with pytest.raises(Interrupted) as told, stopping() as stops, stops.deferred() if deferred else nullcontext():
        body(stops)
    return str(told.value)


@pytest.mark.parametrize(("number", "name"), NAMES)
def test_a_deferred_signal_waits_until_the_block_asks(number: signal.Signals, name: str) -> None:
    found = []

    def body(stops: Stops) -> None:
        found.append(stops.stop())
        send(number)
        found.append(stops.stop())
        raise Interrupted(name)

    assert stopped(body) == f"stopped by {name}"
    assert found == [None, name]


def test_a_deferred_block_that_ends_without_asking_raises_at_its_end() -> None:
    found = []

    def body(stops: Stops) -> None:
        with stops.deferred():
            send(signal.SIGTERM)
            found.append("its end")
        found.append("what follows")

    assert stopped(body, deferred=False) == "stopped by SIGTERM"
    assert found == ["its end"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_whose_exception_was_lost_is_not_lost_itself() -> None:
    class Closing:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    found = []

    def body(stops: Stops) -> None:
        Closing()  # Python says that it ignores what is raised in there
        found.append(stops.stop())
        with stops.deferred():
            found.append("too far")

    assert stopped(body, deferred=False) == "stopped by SIGTERM"
    assert found == ["SIGTERM"]


def test_what_a_block_says_of_where_it_stopped_stays() -> None:
    def body(stops: Stops) -> None:
        send(signal.SIGTERM)
        raise Interrupted("stopped by SIGTERM at step 3")

    assert stopped(body) == "stopped by SIGTERM at step 3"


def test_only_a_second_ctrl_c_stops_at_once() -> None:
    found = []

    def body(stops: Stops) -> None:
        send(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
        found.append(stops.stop())
        send(signal.SIGINT)
        found.append("too far")

    assert stopped(body) == "stopped by SIGTERM"
    assert found == ["SIGTERM"]


def test_later_signals_leave_alone_what_follows_a_stop() -> None:
    found = []

    def body(stops: Stops) -> None:
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
            found.append("status")

    assert stopped(body, deferred=False) == "stopped by SIGTERM"
    assert found == ["status"]


def test_once_all_is_done_only_a_second_ctrl_c_counts() -> None:
    with stopping() as stops:
        stops.disregard()
        send(signal.SIGTERM, signal.SIGINT)

    def body(stops: Stops) -> None:
        stops.disregard()
        send(signal.SIGINT, signal.SIGINT)

    assert stopped(body, deferred=False) == "stopped by Ctrl-C"


def test_an_error_that_the_signal_brought_with_it_is_the_stop() -> None:
    def raising(error: Exception, *before: int) -> None:
        with stopping() as stops, stops.deferred():
            send(*before)
            raise error

    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
        raising(RuntimeError("DataLoader worker is killed by signal: Terminated"), signal.SIGTERM)
    with pytest.raises(RuntimeError, match="own fault"):
        raising(RuntimeError("own fault"))
    with pytest.raises(RunFailed, match="the disk is full"):
        raising(RunFailed("the disk is full"), signal.SIGTERM)


def test_who_listened_before_is_told_at_the_end() -> None:
    told: list[object] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: told.append((number, stops.stop())))
    try:
        with stopping() as stops:
            with pytest.raises(Interrupted):
                send(signal.SIGUSR2)
            assert told == []
        assert told == [(signal.SIGUSR2, "SIGUSR2")]
        with pytest.raises(Interrupted), stopping() as stops:
            send(signal.SIGTERM)
        assert len(told) == 1
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_block_around_hears_of_it_and_is_not_stopped_twice() -> None:
    with stopping() as outer:
        found = []
        assert stopped(lambda inner: (found.append(inner.within), send(signal.SIGTERM)), deferred=False)
        assert found == [outer]
        assert outer.stop() == "SIGTERM"
        send(signal.SIGUSR1)
    assert outer.within is None


@pytest.mark.parametrize("there_are_others", [True, False])
def test_others_are_stopped_in_place_of_this_process_where_there_are_any(there_are_others: bool) -> None:
    reached: list[str | None] = []

    def body(stops: Stops) -> None:
        send(signal.SIGTERM)
        reached.append(stops.stop())

    with stopping(lambda: there_are_others) as stops:
        if there_are_others:
            body(stops)
        else:
            with pytest.raises(Interrupted):
                body(stops)
    assert reached == (["SIGTERM"] if there_are_others else [])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 143, "stopped by Ctrl-C\n"),
        (Interrupted("stopped by SIGTERM at step 3"), 143, "stopped by SIGTERM at step 3\n"),
        (RunFailed("no"), 1, "no\n"),
        (Refusal("no"), 2, "no\n"),
    ],
)
def test_each_end_has_its_code_and_sentence(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending, exits():
        raise error
    assert ending.value.code == code
    assert capsys.readouterr().err == told


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_heard() -> None:
    found: list[object] = []

    def listen() -> None:
        with stopping() as stops:
            found.extend([signal.getsignal(signal.SIGTERM), stops.stop()])

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM), None]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0), (signal.SIGUSR1, 0)]
)
def test_a_forked_child_ends_by_sigterm_and_passes_the_others_by(number: signal.Signals, code: int) -> None:
    with stopping() as stops, stops.deferred():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
        assert stops.stop() is None


CHILD = """
import sys, time
from preftune.refusals import Interrupted
from preftune.runs.stops import stopping
print("began", flush=True)
sys.stdin.readline()
try:
    with stopping() as stops, stops.deferred():
        print(stops.stop(), flush=True)
except Interrupted as interrupted:
    sys.exit(143)
"""


def test_a_held_back_signal_waits_for_the_child_to_listen() -> None:
    root = Path(__file__).parents[1]
    with held_back():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root / "src")},
        )
    assert child.stdout is not None
    assert child.stdout.readline() == "began\n"
    child.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert child.poll() is None
    child.communicate("\n", timeout=30)
    assert child.returncode == 143
