"""Two processes on one run: both stop at the same step, and go on to the same bits."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from tests.resuming import assert_same, events

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from accelerate.utils import wait_for_everyone
from safetensors.torch import save_file
from preftune.refusals import Interrupted
from tests.resuming import Case, build
model, pairs, directory, stop = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
run = build(model, pairs, Case(train={"max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 3}))
rank = run.trainer.args.process_index
assert run.trainer.accelerator.num_processes == 2
for turn in range(2):
    if turn == rank:
        run.enter(directory)
    wait_for_everyone()
# the first process alone is told to stop
run.trainer.stop_on(lambda: "told" if rank == 0 and run.trainer.state.global_step == stop else None)
try:
    run.go()
except Interrupted as stopped:
    assert str(stopped) == "told"
    sys.exit(9)
save_file(run.weights(), directory / f"weights-{rank}.safetensors")
"""


def together(*arguments: object) -> list[int]:
    """Run the script in two processes and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, **rank, "ACCELERATE_USE_CPU": "true"}) for rank in ranks
    ]
    return [process.wait(300) for process in started]


def test_two_processes_go_on_to_the_same_bits(chatml_model: Path, pair_file: Path, tmp_path: Path) -> None:
    assert together(chatml_model, pair_file, tmp_path / "whole", 0) == [9, 9]  # before the first step: nothing is saved
    assert together(chatml_model, pair_file, tmp_path / "whole", -1) == [0, 0]
    assert together(chatml_model, pair_file, tmp_path / "parts", 1) == [9, 9]
    assert {path.name for path in (tmp_path / "parts" / "checkpoints" / "step-1").glob("*-1*")} == {
        "standing-1.json",
        "standing-1.safetensors",
    }
    assert together(chatml_model, pair_file, tmp_path / "parts", -1) == [0, 0]
    for rank in range(2):
        assert_same(*(load_file(tmp_path / run / f"weights-{rank}.safetensors") for run in ("whole", "parts")))
    assert events(tmp_path / "whole") == events(tmp_path / "parts")
