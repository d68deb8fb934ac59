"""Secrets in environment, configuration, command line and .netrc appear in nothing that is written or printed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from preftune import command_line
from preftune.refusals import Refusal, RunFailed, hidden
from preftune.runs.directory import RunDirectory
from tests.test_recipes import SMALL

ROOT = Path(__file__).parents[2]
# As one has them: a key of W&B, a token of the hub, one of no known form, and a password.
CANARIES = {
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "fedcba98",
    "HF_TOKEN": "hf_CanaryCanaryCanary",
    "WAREHOUSE_PASSWORD": "correct-horse-battery",
    "MY_SERVICE": "an-unnamed-canary-value",
}
NETRC = "netrc-canary-password-0123456789abcdef01"


def assert_clean(text: bytes, where: str) -> None:
    for name, canary in {**CANARIES, ".netrc": NETRC}.items():
        assert canary.encode() not in text, f"{name} stands in {where}"


def test_a_sweep_that_is_tracked_writes_none_of_the_secrets_around_it(tmp_path):
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {NETRC}\n")
    netrc.chmod(0o600)
    shutil.copytree(Path(os.environ["PREFTUNE_CACHE"]) / "toy", cache / "toy")
    around = {"HOME": str(home), "PREFTUNE_CACHE": str(cache), "WANDB_MODE": "offline", "TMPDIR": str(tmp_path / "t")}
    (tmp_path / "t").mkdir()
    small = [override for override in SMALL if not override.startswith("track=")]
    run = subprocess.run(
        [sys.executable, "-m", "recipes.run", "-m", "seed=3", *small, "track=wandb"],
        cwd=tmp_path,
        env={**os.environ, **CANARIES, **around, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert_clean(run.stdout + run.stderr, "what was printed")
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file != netrc]
    for file in written:
        assert_clean(str(file).encode(), "a name")
        assert_clean(file.read_bytes(), str(file))
    names = {file.name for file in written}
    assert {"sweep.json", "config.yaml", "output.log", "report.html", "status.json"} <= names
    assert any(file.suffix == ".wandb" for file in written)
    assert len(written) > 30


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "WAREHOUSE_PASSWORD"])
@pytest.mark.parametrize(
    "line",
    [
        "track.entity={}",
        "track.token={}",
        "track.tags=[a,{}]",
        "train.hub_token={}",
        "model.id={}",
        "model={}",
        "seed={}",
        "loss.bata={}",
        "+x.y={}",
        "mistyped {}",
        "--config-dir={}",
        "--config-path={}",
        "hydra.job.name={}",
        "hydra.job.env_set.X={}",
        "loss._target_={}",
        "data.path=https://user:{}@host/rows.jsonl",
        "-m seed={},1",
        "-m loss.beta=0.1,{}",
    ],
)
def test_a_refusal_never_shows_a_secret(line, name, monkeypatch):
    for variable, value in CANARIES.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(Refusal) as refusal:
        command_line.checked(shlex.split(line.format(CANARIES[name])), ROOT / "conf")
    assert_clean(str(refusal.value).encode(), "the refusal")


def test_a_flag_that_does_not_exist_is_refused_without_its_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    with pytest.raises(SystemExit) as ending:
        command_line.checked([f"--token={CANARIES['HF_TOKEN']}"], ROOT / "conf")
    assert ending.value.code == 2
    assert "--token=(hidden)" in capsys.readouterr().err


def test_the_value_of_a_secret_variable_is_refused_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("WAREHOUSE_PASSWORD", CANARIES["WAREHOUSE_PASSWORD"])
    with pytest.raises(Refusal) as refusal:
        command_line.checked([f"track.entity=my-{CANARIES['WAREHOUSE_PASSWORD']}"], ROOT / "conf")
    assert str(refusal.value) == (
        "track.entity must be left out, got what looks like a secret; set it in the environment"
    )


def test_a_short_value_of_a_secret_variable_is_no_reason_to_refuse(monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "sigmoid")
    assert command_line.checked(["seed=0"], ROOT / "conf")


def fail(path: Path, failure: Exception) -> None:
    with RunDirectory.open(path, "0" * 64) as directory:
        directory.start({}, {})
        with directory.running():
            raise failure


@pytest.mark.parametrize("failure", [RunFailed, Refusal, RuntimeError])
def test_a_run_that_fails_with_a_secret_in_its_reason_leaves_none(tmp_path, monkeypatch, failure):
    for variable, value in CANARIES.items():
        monkeypatch.setenv(variable, value)
    text = f"no answer from https://user:{CANARIES['MY_SERVICE']}@host with {' and '.join(CANARIES.values())[:80]}"
    with pytest.raises((RunFailed, RuntimeError)) as failed:
        fail(tmp_path / "run", failure(text))
    if failure is not RuntimeError:
        assert CANARIES["WANDB_API_KEY"] not in str(failed.value)
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            raw = file.read_bytes()
            for name in ("WANDB_API_KEY", "HF_TOKEN"):
                assert CANARIES[name].encode() not in raw, f"{name} stands in {file.name}"
            assert f"user:{CANARIES['MY_SERVICE']}@".encode() not in raw
    assert "(hidden)" in (tmp_path / "run" / "status.json").read_text()


def test_the_telemetry_of_the_stack_is_off_unless_it_is_asked_for():
    names = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION", "WANDB_ERROR_REPORTING")
    bare = {name: value for name, value in os.environ.items() if name not in names}
    script = (
        "from preftune.runs import environment; environment.settle()\n"
        "import os; from huggingface_hub import constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ['WANDB_ERROR_REPORTING'])"
    )
    for asked, printed in (({}, "True false"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "False false")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**bare, **asked, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert done.stdout.strip() == printed


@pytest.mark.parametrize(
    "text",
    ["ghp_0123456789abcdefghij", "github_pat_0123456789abcdefghij", "sk-0123456789abcdefghij", "AKIA0123456789ABCDEF"],
)
def test_what_has_the_form_of_a_secret_is_hidden(text):
    assert hidden(f"got {text}.") == "got (hidden)."


def test_a_commit_stays_readable():
    assert hidden("revision 0123456789abcdef0123456789abcdef01234567") == (
        "revision 0123456789abcdef0123456789abcdef01234567"
    )
