"""Numbers of a row reach the loss beside its own pair; dialects of the user's own; splits of the hub."""

import importlib
import json
import sys

import pytest
import torch
from pydantic import TypeAdapter

from preftune.data import plugins
from preftune.data.loading import load_pairs
from preftune.data.settings import DataSettings
from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import build_trainer
from tests import stock
from tests.test_trainer import TRAIN


def test_every_number_of_a_batch_is_that_of_its_own_pair_in_training_and_in_evaluation(chatml_model, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"{n}?", "chosen": f"yes {n}" + " very" * 200 * (n % 7 == 3), "rejected": f"no {n}", "w": n + 0.5}
        for n in range(24)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    data = stock.data_settings(file, test_size=8, extras={"weight": "w"}, score="w")
    recipe = TrainSettings.model_validate(TRAIN | {"per_device_eval_batch_size": 3})
    loss = TypeAdapter(LossSettings).validate_python({"name": "sigmoid", "beta": 0.1, "label_smoothing": 0.0})
    prepared = prepare(stock.model_settings(chatml_model), data, stock.lora(), recipe, loss, 0)
    assert len(prepared.rows.rows) < len(prepared.pairs.train)  # the long ones are dropped: places differ from rows
    trainer = build_trainer(prepared, recipe, loss, "base", "auto", "off", 0, tmp_path / "run")
    seen: dict[str, list[tuple[float, float]]] = {"train": [], "eval": []}
    score, costs = trainer._score, trainer.objective.costs
    split: list[str] = []
    numbers: list[int] = []

    def scored(model, inputs, part):
        split[:] = [part]
        texts = trainer.processing_class.batch_decode(inputs["input_ids"][: len(inputs["row"])])
        numbers[:] = [int(text.split("user\n")[1].split("?")[0]) for text in texts]
        return score(model, inputs, part)

    def watched(logps: PairLogps) -> dict[str, torch.Tensor]:
        assert sorted(logps.extras) == ["score", "weight"]
        assert torch.equal(logps.extras["score"], logps.extras["weight"])
        if len(numbers) == len(logps.extras["weight"]):
            seen[split[0]] += zip(numbers, logps.extras["weight"].tolist(), strict=True)
        return costs(logps)

    trainer._score, trainer.objective.costs = scored, watched  # type: ignore[method-assign]
    trainer.train()
    trainer.evaluate()
    assert len(seen["train"]) == len(prepared.rows.rows)
    assert len(seen["eval"]) == len(prepared.held_out.rows)
    assert all(weight == number + 0.5 for split_seen in seen.values() for number, weight in split_seen)


OWN = """
from preftune.pairs import PreferencePair

def reads(row):
    prompt = ({{"role": "user", "content": row.columns["q"]}},)
    return PreferencePair(prompt, {chosen}, row.columns["b"], "", {{"length": len(row.columns["a"])}})
"""


def test_a_dialect_of_ones_own_is_read_afresh_when_its_code_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"q": f"{n}?", "a": f"good {n}", "b": "bad"}) for n in range(3)))
    found = []
    for chosen in ('row.columns["a"]', 'row.columns["a"].upper()'):
        (tmp_path / "changing_dialect.py").write_text(OWN.format(chosen=chosen))
        sys.modules.pop("changing_dialect", None)
        importlib.invalidate_caches()
        plugins._function.cache_clear()
        prepared = load_pairs(stock.data_settings(file, dialect="changing_dialect.reads", test_size=1))
        found.append(sorted(pair.chosen for split in (prepared.train, prepared.held_out) for pair in split))
        assert prepared.ledger.train.dialect == {"rows.jsonl": "changing_dialect.reads"}
        assert prepared.train.extras()["length"].tolist() == [6.0, 6.0]
    assert found == [["good 0", "good 1", "good 2"], ["GOOD 0", "GOOD 1", "GOOD 2"]]


def test_a_held_out_split_is_read_as_the_dialect_that_train_was_recognised_as(tmp_path, monkeypatch):
    directory = tmp_path / "owner/name"
    directory.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rendered = "<|im_start|>user\nHi {}<|im_end|>\n"
    for split, prompt in (("train", "Hi {}"), ("test", rendered)):
        rows = [{"prompt": prompt.format(n), "chosen": "a", "rejected": "b"} for n in range(3)]
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {"name": "x", "source": "hub", "id": "owner/name", "dialect": "auto", "test_size": 1}
    settings = DataSettings.model_validate({**fields, "test_split": "test"})
    with pytest.raises(Refusal) as refused:  # alone, these rows are those of openhermes
        load_pairs(settings)
    assert str(refused.value).splitlines()[1] == (
        "  owner/name[test]:1: prompt must be text that no chat template has rendered, got "
        "'<|im_start|>user\\nHi 0<|im_end|>\\n'; data.dialect=openhermes reads ChatML, Llama-3, Mistral and Zephyr"
    )
