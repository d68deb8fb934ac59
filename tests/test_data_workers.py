"""Work in several processes: its order, its errors, and its end."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preftune.data.workers import mapped
from preftune.refusals import Refusal, RunFailed

BUSY = """
import os
import sys
import time

from preftune.data.workers import mapped

def work(piece):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(float(sys.argv[1]))

list(mapped(work, range(20), workers=2))
"""


def slower_when_lower(piece: int) -> tuple[int, int]:
    time.sleep(0.02 * (piece % 3 == 0))
    return piece, os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_pieces(workers):
    found = list(mapped(slower_when_lower, range(20), workers))
    assert [piece for piece, _ in found] == list(range(20))
    processes = {process for _, process in found}
    assert (processes == {os.getpid()}) if workers == 1 else (os.getpid() not in processes)


def test_a_few_pieces_are_done_in_this_process():
    assert {process for _, process in mapped(slower_when_lower, range(3), 2)} == {os.getpid()}
    assert list(mapped(slower_when_lower, [], 2)) == []


def refuses_the_seventh(piece: int) -> int:
    if piece == 6:
        raise Refusal("a.jsonl:7: must be JSON, got a fault")
    return piece


def test_a_refusal_in_a_worker_arrives_as_itself_after_what_came_before_it():
    results = mapped(refuses_the_seventh, range(40), 2)
    assert list(itertools.islice(results, 6)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(Refusal, match=r"^a\.jsonl:7: must be JSON, got a fault$"):
        next(results)


def test_an_endless_source_is_taken_a_few_pieces_ahead():
    taken = itertools.count()
    results = mapped(abs, taken, workers=2)
    assert list(itertools.islice(results, 50)) == list(range(50))
    assert next(taken) <= 50 + 6
    results.close()


def test_a_fault_of_the_source_arrives_and_ends_the_workers():
    def source():
        yield from range(10)
        raise Refusal("a.csv:11: must be CSV")

    with pytest.raises(Refusal, match=r"^a\.csv:11: must be CSV$"):
        list(mapped(abs, source(), 2))


def dies_at_the_seventh(piece: int) -> int:
    if piece == 6:
        os._exit(3)
    return piece


def test_a_worker_that_dies_fails_the_run_and_does_not_hang():
    # A run's handler of SIGTERM, which the workers inherit, must not keep those that are left from ending.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(RunFailed) as failed:
            list(mapped(dies_at_the_seventh, range(40), 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert str(failed.value) == (
        "each process that works on the data must go on to the end, got one that was killed or ended; most often "
        "memory ran out"
    )


def busy(seconds: int, script: str = BUSY) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process with two workers; return it and the workers' ids."""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(seconds)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )
    assert parent.stdout is not None
    return parent, [int(parent.stdout.readline()) for _ in range(2)]


def gone(process: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for yet is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(processes: list[int]) -> None:
    until = time.monotonic() + 10
    while not all(map(gone, processes)):
        assert time.monotonic() < until, "a worker outlives its parent"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
def test_workers_end_when_their_parent_is_killed():
    parent, workers = busy(60)
    assert not any(map(gone, workers))
    parent.kill()
    parent.wait()
    wait_until_gone(workers)
    parent.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
def test_ctrl_c_is_told_once_and_ends_all():
    parent, workers = busy(5)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=40)
    assert parent.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.endswith("KeyboardInterrupt\n")
    wait_until_gone(workers)


STOPPED = BUSY.replace("list(mapped", "from preftune.runs.stops import stopping\nwith stopping(): list(mapped")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_run_that_is_stopped_ends_its_workers_in_the_midst_of_their_work(number, whole_group):
    parent, workers = busy(60, STOPPED)
    (os.killpg if whole_group else os.kill)(parent.pid, number)
    _, errors = parent.communicate(timeout=30)
    assert errors.count("Traceback") == 2  # of the parent: what stopped it, and the sentence in its place
    assert "preftune.refusals.Interrupted: stopped by" in errors
    wait_until_gone(workers)
