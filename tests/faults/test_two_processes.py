"""Two processes on one run: stopped together, or one of them killed, they go on to the same bits."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import wait_for_everyone
from safetensors.torch import load_file, save_file

from preftune.refusals import Interrupted
from tests.forked import code_of, ends_within, forked, kill_at, wait_for
from tests.logged import events
from tests.resuming import Case, assert_same, build, kill_at_each

CASE = Case(train={"max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 3}, points=1)
EACH_STEP = replace(CASE, train=CASE.train | {"max_steps": 2, "save_steps": 1})
STOPPED = 9
INSTANTS = int(os.environ.get("PREFTUNE_KILLS", "20"))  # at which one of the two is killed
OF_A_RUN = 4  # of these
ALONE = 30.0  # s in which a process whose peer was killed finds that out


def together(
    model: Path,
    pairs: Path,
    directory: Path,
    stop: int = -1,
    disturb: Callable[[list[int]], None] = lambda children: None,
    kill: tuple[int, int] = (-1, 0),
    case: Case = CASE,
) -> list[int]:
    """Train in two forked children, the first of which alone is told to stop at a step; return their exit codes.

    `kill` names the process that is killed before a file operation of its saves, and which that is.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def train(rank: int) -> None:
        here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ.update(here, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        AcceleratorState._reset_state(reset_partial_state=True)  # this process was one of its own
        GradientState._reset_state()
        if rank == kill[0]:
            kill_at(kill[1], directory / "checkpoints")
        run = build(model, pairs, case)
        assert run.trainer.accelerator.num_processes == 2
        for turn in range(2):
            if turn == rank:
                run.enter(directory)
            wait_for_everyone()
        (directory / f"joined-{rank}").touch()
        told = "told" if rank == 0 else None
        run.trainer.stop_on(lambda: told if run.trainer.state.global_step == stop else None)
        try:
            run.go()
        except Interrupted as stopped:
            os._exit(STOPPED if str(stopped) == "told" else 1)
        save_file(run.weights(), directory / f"weights-{rank}.safetensors")

    for left in directory.glob("joined-*"):
        left.unlink()
    children = [forked(lambda rank=rank: train(rank)) for rank in range(2)]
    disturb(children)
    return [code_of(child) for child in children]


def assert_same_runs(one: Path, other: Path) -> None:
    for rank in range(2):
        assert_same(*(load_file(run / f"weights-{rank}.safetensors") for run in (one, other)))
    assert events(one) == events(other)


def test_two_processes_stop_together_and_go_on_to_the_same_bits(
    chatml_model: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    assert together(chatml_model, pair_file, tmp_path / "whole") == [0, 0]
    assert together(chatml_model, pair_file, tmp_path / "parts", stop=1) == [STOPPED, STOPPED]
    of_second = {path.name for path in (tmp_path / "parts" / "checkpoints" / "step-1").glob("*[-_]1.*")}
    assert of_second == {"rng_state_1.pth", "standing-1.json", "standing-1.safetensors"}
    assert together(chatml_model, pair_file, tmp_path / "parts") == [0, 0]
    assert_same(*(load_file(tmp_path / "whole" / f"weights-{rank}.safetensors") for rank in range(2)))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_two_processes_of_which_one_is_killed_at_any_instant_go_on_to_the_same_bits(
    chatml_model: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    assert together(chatml_model, pair_file, tmp_path / "whole") == [0, 0]
    took = time.time() - (tmp_path / "whole" / "joined-0").stat().st_mtime
    draw = random.Random(INSTANTS)

    def kill_one(children: list[int]) -> None:
        killed = draw.randrange(2)
        # before they have met the other would wait for minutes, as torch lets it
        wait_for(lambda: len(list(directory.glob("joined-*"))) == 2)
        ends_within(children[killed], draw.uniform(0.0, took))
        os.kill(children[killed], signal.SIGKILL)
        assert ends_within(children[1 - killed], ALONE), "it waits for a peer that is no more"

    kills = 0
    while kills < INSTANTS:
        directory, first = Path(mkdtemp(dir=tmp_path)), kills
        while kills < first + OF_A_RUN:
            if -signal.SIGKILL not in together(chatml_model, pair_file, directory, disturb=kill_one):
                break  # it came to its end before
            kills += 1
        assert together(chatml_model, pair_file, directory) == [0, 0]
        assert_same_runs(tmp_path / "whole", directory)


@pytest.mark.parametrize("rank", range(2))
def test_two_processes_of_which_one_is_killed_at_each_file_operation_of_its_saves_go_on_to_the_same_bits(
    chatml_model: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    assert together(chatml_model, pair_file, tmp_path / "whole", case=EACH_STEP) == [0, 0]

    def killed(operation: int) -> int:
        codes = together(chatml_model, pair_file, tmp_path / "run", kill=(rank, operation), case=EACH_STEP)
        assert codes[rank] or codes == [0, 0]
        return codes[rank]

    kills = kill_at_each(tmp_path / "run" / "checkpoints", killed)
    assert kills > (20, 3)[rank] * 2  # saves
    assert_same_runs(tmp_path / "whole", tmp_path / "run")
