"""Each line of wrong_configurations.txt is refused with its sentences, before anything heavy is imported."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from preftune import command_line
from preftune.refusals import Refusal

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "wandb"}


def table() -> list[tuple[str, str]]:
    text = Path(__file__).with_name("wrong_configurations.txt").read_text()
    entries = [entry.splitlines() for entry in text.split("\n$ ")[1:]]
    return [(line, "\n".join(sentence.strip() for sentence in below if sentence)) for line, *below in entries]


def recipe(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "recipes.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_table_is_read_whole():
    assert len(table()) == 202


@pytest.mark.parametrize(("line", "sentences"), table(), ids=[line for line, _ in table()])
def test_a_wrong_command_line_is_refused_with_its_sentences(line, sentences, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(Refusal) as refusal:
        command_line.checked(shlex.split(line), ROOT / "conf")
    assert str(refusal.value) == sentences


def test_a_refused_override_exits_2_with_its_sentence_and_no_traceback():
    done = recipe("loss.beta=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "loss.beta must be a number above 0, got -1\n"


def test_a_bad_value_in_the_middle_of_a_sweep_is_refused_before_the_first_job():
    done = recipe("-m", "loss.beta=0.1,-1,0.2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "loss.beta must be a number above 0, got -1\n"


def test_a_secret_is_never_shown_back():
    secret = "hf_abcdefghijklmnop"
    done = recipe(f"track.token={secret}", f"train.hub_token={secret}", f"mistyped {secret}", f"seed={secret}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 4
    assert secret not in done.stderr


@pytest.mark.parametrize("arguments", [("loss.beta=-1",), ("--cfg", "job")])
def test_nothing_heavy_is_imported_for_an_answer(arguments):
    done = recipe(*arguments, python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "pydantic" in imported
    assert not HEAVY & imported


def test_cfg_job_prints_the_whole_run():
    done = recipe("--cfg", "job", "train.adam_beta2=0.99")
    assert done.returncode == 0
    groups = [line for line in done.stdout.splitlines() if line.endswith(":")]
    names = "model data loss adapter train track launch run evaluate guard sweep"
    assert {f"{name}:" for name in names.split()} <= set(groups)
    for line in ("seed: 0", "  beta: 0.1", "  learning_rate: 0.0015", "  adam_beta2: 0.99"):
        assert line in done.stdout.splitlines()
    assert "${" not in done.stdout
