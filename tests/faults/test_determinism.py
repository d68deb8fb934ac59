"""The same seed gives the same bits, another seed another run, and `deterministic` changes nothing on a CPU."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from preftune.evaluating.sampling import sample_reference
from preftune.evaluating.settings import EvaluateSettings
from preftune.runs import environment
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer, build_trainer
from tests import stock
from tests.point_runs import SIGMOID, TRAIN
from tests.test_recipes import SMALL, Execute, execute, read  # noqa: F401


@pytest.fixture(autouse=True)
def process_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
    yield
    torch.use_deterministic_algorithms(False)


def losses(directory: Path) -> list[str]:
    """Return the lines of metrics.jsonl without what a clock or the process makes of them."""
    kept = []
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        event: dict[str, Any] = TypeAdapter(dict[str, Any]).validate_json(line)
        timed = ("second", "runtime", "time", "speed/", "memory/")
        kept.append(repr({name: value for name, value in event.items() if not any(each in name for each in timed)}))
    return kept


def test_deterministic_changes_no_bit_on_a_cpu(execute: Execute, tmp_path: Path) -> None:  # noqa: F811
    for name in ("false", "true"):
        execute(*SMALL, f"run.dir={tmp_path / name}", f"deterministic={name}")
        assert torch.are_deterministic_algorithms_enabled() is (name == "true")
    for file in ("adapter/adapter_model.safetensors", "samples.jsonl"):
        assert (tmp_path / "true" / file).read_bytes() == (tmp_path / "false" / file).read_bytes()
    assert losses(tmp_path / "true") == losses(tmp_path / "false")
    assert len(losses(tmp_path / "true")) > 3
    assert (
        read(tmp_path / "true" / "manifest.json")["identity"] != read(tmp_path / "false" / "manifest.json")["identity"]
    )


def test_deterministic_sets_what_cuda_reads_before_it_starts_and_the_next_run_does_without() -> None:
    environment.settle(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    environment.settle()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def build(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Any:
    def go(seed: int) -> PairTrainer:
        recipe = TrainSettings.model_validate(TRAIN)
        chosen = TypeAdapter(LossSettings).validate_python(SIGMOID)
        rows = stock.data_settings(pair_file, test_size=6, split_seed=0)
        prepared = prepare(stock.model_settings(chatml_model), rows, stock.lora(), recipe, chosen, seed)
        return build_trainer(prepared, recipe, chosen, "base", "auto", "off", seed, tmp_path)

    return go


def initial(trainer: PairTrainer) -> list[float]:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]).tolist()


def order(trainer: PairTrainer) -> list[int]:
    torch.manual_seed(99)  # the order is that of the seed whatever was drawn before
    return [row for batch in trainer.get_train_dataloader() for row in batch["row"].tolist()]


def said(trainer: PairTrainer) -> list[str]:
    prepared = trainer.prepared
    settings = EvaluateSettings(points=1, prompts=4, max_new_tokens=8, batch_size=2)
    prompts = prepared.held_out_prompts()[:4]
    seed = trainer.args.seed
    return sample_reference(trainer.acting_as_reference, prepared.chat, prompts, settings, seed=seed).texts


def test_the_seed_makes_the_adapter_the_order_of_rows_and_the_samples(build: Any) -> None:
    first, again, other = build(0), build(0), build(1)
    for of in (initial, order, said):
        assert of(first) == of(again)
        assert of(first) != of(other)
    assert sorted(order(first)) == sorted(order(other))
