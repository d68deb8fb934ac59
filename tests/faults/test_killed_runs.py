"""A run that is killed anywhere in a save, or at any instant, comes to the bits and the log of one that was not."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from preftune.models.settings import FullSettings
from preftune.training.checkpoints import Checkpoints
from tests.forked import code_of, ends_within, forked, kill_at
from tests.logged import events
from tests.resuming import IDENTITY, Case, Start, assert_same, build, kill_at_each
from tests.spoilt import SPOILT, flip

SHORT = {"max_steps": 4, "save_steps": 2, "max_length": 128}
CASES = {
    "lora": Case(train=SHORT),
    "nf4": Case(train=SHORT, model={"quantization": "nf4", "dtype": "bfloat16"}),
    "full": Case(train=SHORT, adapter=FullSettings(name="full")),
    "shared with kept reference": Case(train=SHORT, engine="shared"),
}
EACH_STEP = {"max_steps": 2, "save_steps": 1}
INSTANTS = int(os.environ.get("PREFTUNE_KILLS", "20"))  # at which each case is killed
OF_A_RUN = 3  # of these


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def built(chatml_model: Path, pair_file: Path) -> Callable[[str], Start]:
    """Return what a start of a case needs, built once: each start is a fork of it."""
    made: dict[str, Start] = {}

    def build_once(name: str) -> Start:
        if name not in made:
            made[name] = build(chatml_model, pair_file, CASES[name])
        return made[name]

    return build_once


def finish(run: Start, directory: Path) -> None:
    """Do a start to its end, and leave its weights."""
    save_file(run.enter(directory).go().weights(), directory / "weights.safetensors")


def write(step: int) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        for name in ("weights", "optimizer", "scheduler"):
            (directory / name).write_text(f"{name} {step}")

    return fill


def test_a_save_that_is_killed_at_any_file_operation_leaves_the_one_before_it_or_itself(tmp_path: Path) -> None:
    seen = []
    for operation in range(1, 200):
        directory = tmp_path / f"{operation}"
        earlier = Checkpoints(directory, [IDENTITY])
        for step in (10, 20):
            earlier.save(step, 40, write(step))
        earlier.wait()

        def third(directory: Path = directory, operation: int = operation) -> None:
            kill_at(operation, directory)
            later = Checkpoints(directory, [IDENTITY])
            later.save(30, 40, write(30))
            later.wait()

        code = code_of(forked(third))
        left = [int(path.name.removeprefix("step-")) for path in directory.glob("step-*") if path.suffix == ""]
        found = []
        while (sealed := Checkpoints(directory, [IDENTITY]).newest()) is not None:
            assert (sealed.path / "weights").read_text() == f"weights {sealed.step}"
            found.append(sealed.step)
            shutil.rmtree(sealed.path)
        assert found == sorted(left, reverse=True)  # each that has a name is whole
        assert len(found) >= 2
        seen.append(found[0])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen == sorted(seen)  # from some operation on it is the new one
    assert seen.count(20) >= 10
    assert seen.count(30) >= 4  # the names on the disk, the rotation, the end
    assert code == 0


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_killed_at_any_instant_ends_in_the_same_bits(
    tmp_path: Path, built: Callable[[str], Start], name: str
) -> None:
    run, draw = built(name), random.Random(f"{name} {INSTANTS}")
    since = time.monotonic()
    assert code_of(forked(lambda: finish(run, tmp_path / "whole"))) == 0
    took = time.monotonic() - since
    for first in range(0, INSTANTS, OF_A_RUN):
        directory, kills = tmp_path / f"{first}", 0
        while kills < min(OF_A_RUN, INSTANTS - first):
            child = forked(lambda directory=directory: finish(run, directory))
            ends_within(child, draw.uniform(0.0, took))
            os.kill(child, signal.SIGKILL)
            kills += code_of(child) != 0
        assert code_of(forked(lambda directory=directory: finish(run, directory))) == 0
        assert_same(*(load_file(each / "weights.safetensors") for each in (tmp_path / "whole", directory)))
        assert events(tmp_path / "whole") == events(directory)


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_killed_at_each_file_operation_of_its_saves_ends_in_the_same_bits(
    tmp_path: Path, chatml_model: Path, pair_file: Path, name: str
) -> None:
    case = replace(CASES[name], train=SHORT | EACH_STEP, points=1)
    run, directory = build(chatml_model, pair_file, case), tmp_path / "run"
    assert code_of(forked(lambda: finish(run, tmp_path / "whole"))) == 0

    def killed(operation: int) -> None:
        kill_at(operation, directory / "checkpoints")
        finish(run, directory)

    kills = kill_at_each(directory / "checkpoints", lambda operation: code_of(forked(lambda: killed(operation))))
    assert kills > 20 * 2  # saves
    assert_same(*(load_file(each / "weights.safetensors") for each in (tmp_path / "whole", directory)))
    assert events(tmp_path / "whole") == events(directory)


def test_a_checkpoint_with_any_file_spoilt_is_never_used(
    tmp_path: Path, built: Callable[[str], Start], chatml_model: Path, pair_file: Path
) -> None:
    run, directory = built("lora"), tmp_path / "run"
    assert code_of(forked(lambda: finish(run, directory))) == 0
    other = build(chatml_model, pair_file, Case(train=SHORT | {"learning_rate": 5e-4}))
    assert code_of(forked(lambda: finish(other, tmp_path / "other"))) == 0
    newest = directory / "checkpoints" / "step-4"
    names = sorted(path.name for path in newest.iterdir())
    assert len(names) == 10
    for name, how in itertools.product(names, [*SPOILT, "replaced"]):
        copy = tmp_path / f"{name} {how}" / "checkpoints"
        shutil.copytree(directory / "checkpoints", copy)
        foreign = tmp_path / "other" / "checkpoints" / "step-4" / name
        if how == "replaced" and foreign.read_bytes() == (newest / name).read_bytes():
            continue  # what is the same in both runs cannot be told apart, nor need it be
        if how == "replaced":
            shutil.copy(foreign, copy / "step-4" / name)
        else:
            SPOILT[how](copy / "step-4" / name)
        found = Checkpoints(copy, [IDENTITY]).newest()
        assert found is not None, (name, how)
        assert found.step == 2, (name, how)
        reason = (copy / "torn-step-4.txt").read_text()
        assert reason.startswith(name) or name == "manifest.json"
        shutil.rmtree(copy)


def test_a_run_whose_newest_checkpoint_is_spoilt_goes_on_from_the_one_before_it_to_the_same_bits(
    tmp_path: Path, built: Callable[[str], Start]
) -> None:
    run, directory = built("lora"), tmp_path / "run"
    assert code_of(forked(lambda: finish(run, directory))) == 0
    weights, logged = load_file(directory / "weights.safetensors"), events(directory)
    flip(directory / "checkpoints" / "step-4" / "optimizer.pt")
    assert code_of(forked(lambda: finish(run, directory))) == 0
    assert_same(weights, load_file(directory / "weights.safetensors"))
    assert events(directory) == logged
    facts = json.loads((directory / "checkpoints" / "step-4" / "manifest.json").read_text())
    assert facts["identity"] == IDENTITY
