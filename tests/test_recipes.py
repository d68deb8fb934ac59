"""What a person types, run whole: in this process where speed allows, as a command where its ending counts."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preftune import config
from preftune.refusals import RunFailed
from recipes import run as recipe

ROOT = Path(__file__).parents[1]
SMALL = ("data.toy.pairs=64", "data.test_size=16", "train=smoke", "evaluate.prompts=4", "track=none")
Execute = Callable[..., Path]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run a recipe in an empty directory; return the run's directory."""
    monkeypatch.chdir(tmp_path)

    def go(*overrides: str) -> Path:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            choices = compose("run", [*overrides])
        resolved: Any = OmegaConf.to_container(choices, resolve=True)
        config.load(choices)
        recipe.run(resolved)
        return next(iter(sorted(tmp_path.glob("runs/*"))), tmp_path)

    return go


def command(*arguments: str, cwd: Path, start_new_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recipes.run", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_bare_command_raises_the_true_reward_by_five_standard_errors(execute: Execute) -> None:
    directory = execute()
    summary = read(directory / "summary.json")
    was, now = summary["true_reward"]["reference"], summary["true_reward"]["policy"]
    assert now["mean"] - was["mean"] > 5 * math.hypot(was["stderr"], now["stderr"])
    assert summary["loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert summary["loss_last"] < summary["loss_first"]
    assert summary["eval_start"]["accuracy"] == 0.5
    assert summary["eval"]["accuracy"] > 0.6
    assert summary["eval"]["kl_to_reference"] > 0
    assert summary["verdict"]["word"] == "healthy"
    assert list((directory / "wandb").glob("offline-run-*/*.wandb"))


def test_a_run_leaves_what_the_design_lists(execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    directory = execute(*SMALL)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(str(directory.relative_to(Path.cwd())))
    left = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    assert left == {
        "adapter",
        "checkpoints",
        "config.yaml",
        "data.html",
        "data.json",
        "ledger.json",
        "manifest.json",
        "metrics.jsonl",
        "plan.json",
        "report.html",
        "samples.jsonl",
        "status.json",
        "summary.json",
    }
    assert f"<h1>{directory.name}</h1>" in (directory / "report.html").read_text(encoding="utf-8")
    summary = read(directory / "summary.json")
    assert {
        *("loss_first", "loss_last", "steps", "pairs_per_second", "tokens_per_second", "peak_memory_bytes"),
        *("seconds", "eval", "engine", "verified", "verdict", "verdicts", "true_reward", "win_rate", "sources"),
        *("length_sampled", "length_sampled_reference", "adapter_moved"),
    } <= summary.keys()
    assert set(summary["seconds"]) == {"data", "reference", "train", "evaluate"}
    assert {
        *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("logratio_margin", "accuracy", "chosen_logp_per_token", "rejected_logp_per_token", "kl_to_reference"),
        *("margin_p05", "margin_p50", "margin_p95", "chosen_falls", "length_correlation", "kl_chosen"),
        *("length_chosen", "length_rejected", "chosen_logp_per_token_change", "rejected_logp_per_token_change"),
    } <= summary["eval"].keys()
    assert summary["verified"]["largest_difference"] < 1e-3
    assert summary["verified"]["cost_in_steps"] > 0
    assert read(directory / "status.json")["state"] == "complete"
    assert read(directory / "status.json")["step"] == 3
    assert read(directory / "ledger.json")["train"]["kept"] == 48
    assert read(directory / "data.json")["ledger"] == read(directory / "ledger.json")
    assert f"<h1>{directory.name}</h1>" in (directory / "data.html").read_text(encoding="utf-8")
    manifest = read(directory / "manifest.json")
    assert manifest["identity"].startswith(directory.name.rpartition("-")[2])
    assert {"versions", "model", "template", "data"} <= manifest.keys()
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if "loss" in event] == [1, 2, 3]
    assert [event["step"] for event in events if "eval_loss" in event] == [0, 1, 2, 3]
    assert [event["step"] for event in events if "kl/sampled" in event] == [0, 1, 2, 3]
    assert events[1] | {"win_rate": 0.5, "kl/sampled": 0.0, "data/read": 64.0, "data/kept": 48.0} == events[1]


def test_the_same_run_again_says_that_it_is_complete(execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    directory = execute(*SMALL)
    weights = (directory / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert execute(*SMALL) == directory
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("this run is complete: 3 steps; remove its directory, or set run.dir, to train it again")
    assert "held-out pairs" in printed
    assert (directory / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights


def test_a_dry_run_prints_the_plan_and_leaves_nothing(execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    assert not list(execute(*SMALL, "dry_run=true").iterdir())
    printed = capsys.readouterr().out
    assert "48 kept of 64 read (16 held out)" in printed
    assert "3, of which 1 warm up; 8 pairs a step in 2 micro-batches" in printed


def test_hermes2k_trains_a_local_model_through_the_8b_recipe(
    execute: Execute, llama3_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": "No idea.", "delta_score": n % 3}
        for n in range(24)
    ]
    data = tmp_path / "hermes.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    overrides = ("model=llama3_8b", "data=hermes2k", f"model.path={llama3_model}", f"data.path={data}")
    summary = read(execute(*overrides, "train.max_steps=2", "evaluate.prompts=2", "track=none") / "summary.json")
    printed = " ".join(capsys.readouterr().out.split())
    assert summary["loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert summary["steps"] == 2
    assert "14 quantised layers" in printed
    assert "turns end in <|eot_id|>" in printed
    assert "note model.pad_token <|reserved_special_token_250|> is not in the tokenizer at" in printed


def test_kto_trains_on_both_answers_of_each_pair(execute: Execute, capsys: pytest.CaptureFixture[str]) -> None:
    directory = execute(*SMALL, "method=kto", "loss=kto")
    printed = " ".join(capsys.readouterr().out.split())
    assert "48 kept of 64 read (16 held out)" in printed
    assert "3, of which 1 warm up; 8 answers a step in 2 micro-batches" in printed
    assert "labels 48 desirable, 48 undesirable" in printed
    assert "verified: loss 0.500000, scratch 0.500000" in printed
    summary = read(directory / "summary.json")
    assert summary["loss_first"] == summary["eval_start"]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert summary["eval_start"]["accuracy"] == 0.5
    assert summary["eval"]["accuracy"] is not None
    assert summary["true_reward"]["policy"]["mean"] is not None


def test_kto_trains_on_labelled_rows_as_they_are(
    execute: Execute, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Ask {n}", "completion": ("yes", "no")[n % 4 == 0], "label": n % 4 > 0} for n in range(32)]
    data = tmp_path / "labelled.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    chosen = ("method=kto", "loss=kto", "data=jsonl", f"data.path={data}", "data.test_size=8", "train.max_steps=6")
    directory = execute("train=smoke", "track=none", "evaluate.prompts=2", *chosen)
    printed = " ".join(capsys.readouterr().out.split())
    assert "train answers 24 kept of 32 read (8 held out)" in printed
    summary = read(directory / "summary.json")
    assert summary["loss_first"] == pytest.approx(0.5, abs=1e-4)
    assert summary["eval"]["loss"] < 0.5
    assert summary["eval"]["rewards/margins"] == pytest.approx(
        summary["eval"]["rewards/chosen"] - summary["eval"]["rewards/rejected"]
    )
    assert summary["eval"]["accuracy"] is summary["eval"]["logratio_margin"] is None
    assert summary["verdict"]["sentence"].startswith("Held-out loss fell from 0.500 to 0.")
    assert read(directory / "ledger.json")["train"]["kept"] == 24
    assert len((directory / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("adapter", ["dora", "full"])
@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_every_adapter_and_loss_trains(
    execute: Execute, chatml_model: Path, pair_file: Path, adapter: str, loss: str
) -> None:
    local = ("model=local", f"model.path={chatml_model}", "data=jsonl", f"data.path={pair_file}", "train=smoke")
    directory = execute(*local, f"adapter={adapter}", f"loss={loss}", "track=tensorboard", "evaluate.prompts=2")
    first = {"ipo": 25.0, "hinge": 1.0}[loss]
    assert read(directory / "summary.json")["loss_first"] == pytest.approx(first, rel=1e-3)
    assert (directory / ("model" if adapter == "full" else "adapter") / "tokenizer.json").is_file()
    assert list((directory / "tensorboard").iterdir())


def test_the_200_real_pairs_train_a_4_bit_model(execute: Execute, demo_pairs: Path) -> None:
    directory = execute(
        "data=sharegpt", f"data.path={demo_pairs}", "model.quantization=nf4", "train.max_steps=5", "track=none"
    )
    summary = read(directory / "summary.json")
    assert summary["loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert summary["steps"] == 5
    assert read(directory / "ledger.json")["train"]["read"] == 200


def test_a_failed_run_says_why_and_so_does_its_status(execute: Execute, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"after step 1 must be finite.*\nthe run failed at step 1 of 3; see runs/"):
        execute(*SMALL, "train.learning_rate=1e30", "train.warmup_steps=0")
    status = read(next((tmp_path / "runs").iterdir()) / "status.json")
    assert status["state"] == "failed"
    assert "toy:" in status["reason"]


def test_ctrl_c_says_where_the_run_stopped_and_so_does_its_status(tmp_path: Path) -> None:
    long = [*SMALL, "train.max_steps=100000"]
    process = command(*long, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        found = list(tmp_path.glob("runs/*/status.json"))
        if found and read(found[0])["step"] >= 3:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    status = read(found[0])
    assert process.returncode == 143
    assert status["state"] == "preempted"
    assert status["reason"] == "stopped by Ctrl-C"
    assert f"stopped by Ctrl-C at step {status['step']} of 100000; see runs/" in errors
    assert "Traceback" not in errors


def test_bad_data_ends_in_one_sentence_and_a_failed_status(tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": 3, "rejected": "c"}\n')
    process = command("data=jsonl", f"data.path={data}", "track=none", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "bad.jsonl:2: chosen must be" in errors
    assert "Traceback" not in errors
    assert read(next((tmp_path / "runs").iterdir()) / "status.json")["state"] == "failed"


def test_two_runs_of_one_seed_leave_the_same_adapter(execute: Execute, tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        execute(*SMALL, f"run.dir={tmp_path / name}")
        weights.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
