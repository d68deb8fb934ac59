"""What a harmed, foreign or half-written reference cache gets: a sentence, and its numbers computed afresh."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from preftune.training.reference_keys import row_digests
from preftune.training.reference_store import ReferenceStore
from tests.test_training_reference_store import fill, holds, rows, scored

ROOT = Path(__file__).parents[2]
COMPUTE = """
import sys, time
from pathlib import Path
import numpy as np
from preftune.training.reference_keys import row_digests
from preftune.training.reference_store import ReferenceStore
from tests.test_training_reference_store import rows, scored
directory, start, end, made = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
table = rows(90).select(range(start, end))
store, digests = ReferenceStore(Path(directory)), row_digests(table)
print("ready", flush=True)
sys.stdin.readline()
with store.lock():
    for row in np.flatnonzero(store.find(digests) < 0).tolist():
        pair = table[row]
        lengths = np.array([[len(pair["chosen_ids"]), len(pair["rejected_ids"])]])
        with open(made, "a") as lines:
            lines.write(f"{start + row}\\n")
        store.add(digests[row : row + 1], scored(pair), lengths)
assert (store.find(digests) >= 0).all()
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from preftune.training.reference_store import ReferenceStore
from tests.test_training_reference_store import fill, rows
store = ReferenceStore(Path(sys.argv[1]))
fill(store, rows(90).select(range(40)))
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before it is on the disk":
    os.fsync = killed
else:
    Path.replace = killed
with store.lock():
    fill(store, rows(90))
"""


def process(script: str, *arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def opened(directory: Path) -> tuple[ReferenceStore, str]:
    """Return the store at `directory` and what it says as it opens."""
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    return ReferenceStore(directory, console), console.export_text().strip()


def shard(directory: Path) -> Path:
    (file,) = directory.glob("*.safetensors")
    return file


def sealed(file: Path) -> None:
    """Name `file` after its bytes, as a sound shard is."""
    file.rename(file.with_name(f"{hashlib.sha256(file.read_bytes()).hexdigest()}.safetensors"))


def cut(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path, other: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


def key_rewritten(file: Path, other: Path) -> None:
    file.unlink()
    (file.parent / other.name).write_bytes(other.read_bytes().replace(b'"other ', b'"first '))


def renamed(file: Path, other: Path) -> None:
    shutil.copy(other, file)


def foreign(file: Path, other: Path) -> None:
    file.unlink()
    shutil.copy(other, file.parent)


def sealed_empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")
    sealed(file)


def without_lengths(file: Path, other: Path) -> None:
    tensors = load_file(file)
    del tensors["lengths"]
    save_file(tensors, file, {"reference": "first "})
    sealed(file)


def of_other_shapes(file: Path, other: Path) -> None:
    tensors = load_file(file)
    save_file({**tensors, "values": tensors["values"][:-1]}, file, {"reference": "first "})
    sealed(file)


def a_directory(file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


Harm = Callable[[Path, Path], None]
HARMS: dict[Harm, str] = {
    cut: "torn or changed",
    emptied: "torn or changed",
    flipped: "torn or changed",
    key_rewritten: "torn or changed",
    renamed: "torn or changed",
    foreign: "made for another reference",
    sealed_empty: "in another form",
    without_lengths: "in another form",
    of_other_shapes: "in another form",
}


@pytest.mark.parametrize(("harm", "reason"), HARMS.items(), ids=[harm.__name__ for harm in HARMS])
def test_a_shard_that_is_not_as_it_was_made_is_refused_and_computed_again(tmp_path, harm, reason):
    table = rows(20)
    for name in ("first", "other"):
        fill(ReferenceStore(tmp_path / name), table)
    harm(shard(tmp_path / "first"), shard(tmp_path / "other"))
    store, said = opened(tmp_path / "first")
    assert said == f"warning: kept reference log-probabilities are left out and computed again: 1 {reason}"
    assert len(store) == 0
    assert list((tmp_path / "first").iterdir()) == []
    assert fill(store, table) == list(range(20))
    again, said = opened(tmp_path / "first")
    assert (said, holds(again, table)) == ("", True)
    assert holds(ReferenceStore(tmp_path / "other"), table)


def test_sound_shards_beside_harmed_ones_are_used_and_one_sentence_counts_the_others(tmp_path):
    table, store = rows(30), ReferenceStore(tmp_path / "first")
    fill(store, table.select(range(10)))
    sound = shard(tmp_path / "first")
    fill(store, table.select(range(20)))
    fill(store, table)
    for file in set((tmp_path / "first").glob("*")) - {sound}:
        flipped(file, file)
    fill(ReferenceStore(tmp_path / "other"), table)
    shutil.copy(shard(tmp_path / "other"), tmp_path / "first")
    store, said = opened(tmp_path / "first")
    assert said.endswith("computed again: 1 made for another reference, 2 torn or changed")
    assert fill(store, table) == list(range(10, 30))
    assert holds(store, table)


def test_a_directory_of_another_reference_under_this_key_is_refused(tmp_path):
    fill(ReferenceStore(tmp_path / "other"), rows(5))
    (tmp_path / "other").rename(tmp_path / "first")
    store, said = opened(tmp_path / "first")
    assert said.endswith("1 made for another reference")
    assert len(store) == 0


def test_what_cannot_be_read_is_left_out(tmp_path):
    table = rows(5)
    fill(ReferenceStore(tmp_path / "first"), table)
    a_directory(shard(tmp_path / "first"), tmp_path)
    store, said = opened(tmp_path / "first")
    assert said.endswith("1 unreadable")
    assert len(store) == 0


def test_two_processes_at_once_compute_each_pair_once(tmp_path):
    both = [process(COMPUTE, tmp_path / "key", start, end, tmp_path / "made") for start, end in ((0, 60), (30, 90))]
    for one in both:
        assert one.stdout.readline() == "ready\n"  # both have found nothing
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=60)
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(map(int, (tmp_path / "made").read_text().split())) == list(range(90))
    assert holds(ReferenceStore(tmp_path / "key"), rows(90))


def test_who_waits_for_another_process_says_so(tmp_path):
    holder = ReferenceStore(tmp_path / "key")
    with holder.lock():
        waiting = process(COMPUTE, tmp_path / "key", 0, 3, tmp_path / "made")
        assert waiting.stdout.readline() == "ready\n"
        waiting.stdin.write("go\n")
        waiting.stdin.flush()
        assert waiting.stdout.readline() == "waiting for another run, which computes the same reference\n"
        fill(holder, rows(90))
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("moment", ["before it is on the disk", "before it has its name"])
def test_a_kill_in_the_middle_leaves_the_earlier_shards_and_no_part(tmp_path, moment):
    killed = process(KILLED, tmp_path / "key", moment)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "key").glob("*.partial"))) == 1
    store, said = opened(tmp_path / "key")
    assert (said, len(store)) == ("", 40)
    with store.lock():
        assert [file.suffix for file in (tmp_path / "key").iterdir()] == [".safetensors"]
        assert fill(store, rows(90)) == list(range(40, 90))
    assert holds(store, rows(90))


def test_a_full_disk_leaves_no_part(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store, table = ReferenceStore(tmp_path / "key"), rows(5)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        fill(store, table)
    assert list((tmp_path / "key").iterdir()) == []
    monkeypatch.undo()
    assert fill(store, table) == list(range(5))


def test_of_two_values_for_one_pair_the_first_that_was_read_counts(tmp_path):
    table: datasets.Dataset = rows(1)
    store = ReferenceStore(tmp_path / "key")
    fill(store, table)
    pair = table[0]
    lengths = np.array([[len(pair["chosen_ids"]), len(pair["rejected_ids"])]])
    store.add(row_digests(table), scored(pair) - 1, lengths)
    assert store.find(row_digests(table)).tolist() == [0]
    assert holds(store, table)
