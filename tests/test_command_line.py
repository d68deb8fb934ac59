import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from preftune import command_line, config
from preftune.refusals import Refusal

CONF = Path(__file__).parent.parent / "conf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def checked(*argv: str) -> list[str]:
    return command_line.checked([*argv], CONF)


def run_of(*argv: str) -> config.Config:
    overrides = checked(*argv)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config.load(compose("run", overrides))


def test_a_key_that_no_file_lists_needs_no_plus():
    assert run_of("train.adam_beta2=0.99").train.dpo["adam_beta2"] == 0.99


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_plus_before_a_known_key_changes_nothing(plus):
    assert run_of(f"{plus}loss.beta=0.2").loss.beta == 0.2


def test_a_group_is_chosen_with_or_without_a_plus():
    assert checked("+experiment=hermes2k_llama3_8b", "loss=ipo") == [
        "experiment=hermes2k_llama3_8b",
        "loss=ipo",
    ]


def test_settings_of_hydra_and_flags_pass_as_they_are():
    argv = ["-m", "hydra.sweep.dir=there", "loss.beta=0.1,0.2", "--cfg", "hydra"]
    assert checked(*argv) == ["-m", "hydra.sweep.dir=there", "++loss.beta=0.1,0.2", "--cfg", "hydra"]


@pytest.mark.parametrize("flag", ["--help", "--hydra-help"])
def test_help_is_given_whatever_else_is_typed(flag):
    assert checked(flag, "loss.beta=-1") == [flag, "loss.beta=-1"]


def test_a_commit_is_a_revision_and_no_secret():
    assert run_of("model=qwen3_4b", f"model.revision={COMMIT}").model.revision == COMMIT


def test_a_variable_that_is_no_secret_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MODELS", "/models/tiny")
    assert run_of("model=local", "model.path=${oc.env:MODELS}").model.path == "/models/tiny"


def test_a_setting_that_is_not_needed_can_be_deleted():
    assert "optim" not in run_of("~train.optim").train.dpo


def test_a_directory_of_ones_own_adds_choices(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("name: ipo\nbeta: 0.3\n")
    argv = ["--config-dir", str(tmp_path), "loss=mine"]
    assert checked(*argv) == argv
    with pytest.raises(Refusal, match=r"loss must be one of .*ipo_sum, kto, mine, nca_pair, .*, got 'others'"):
        checked("--config-dir", str(tmp_path), "loss=others")


def test_a_fault_in_a_file_of_ones_own_is_refused_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nloss:\n  bata: 0.3\n")
    with pytest.raises(Refusal, match=r"^loss\.bata must be a known setting, got 0\.3; did you mean loss\.beta\?$"):
        checked("--config-dir", str(tmp_path), "experiment=mine")


def test_every_value_of_every_sweep_is_checked():
    with pytest.raises(Refusal) as refusal:
        checked("-m", "loss.beta=0.1,-1", "seed=range(-1,2)")
    assert str(refusal.value).splitlines() == [
        "seed must be a whole number at least 0 and below 4294967296, got -1",
        "loss.beta must be a number above 0, got -1",
    ]


def test_a_glob_sweeps_over_the_files_that_exist():
    sweep = "loss=glob(*,exclude=[custom,kto])"
    assert checked("-m", sweep) == ["-m", sweep]


SWEEP = """
import sys
from pathlib import Path
import hydra
from preftune import command_line, config
conf = Path(sys.argv.pop(1))
sys.argv[1:] = command_line.checked(sys.argv[1:], conf)

@hydra.main(version_base="1.3", config_path=str(conf), config_name="run")
def job(choices):
    run = config.load(choices)
    print(run.loss.beta, run.train.dpo["adam_beta2"])

job()
"""


def test_a_sweep_over_listed_and_unlisted_keys_runs_every_job(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(SWEEP)
    source = str(Path(command_line.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(script), str(CONF), "-m", "loss.beta=0.05,0.1", "train.adam_beta2=0.9,0.99"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0.05 0.9", "0.05 0.99", "0.1 0.9", "0.1 0.99"]
