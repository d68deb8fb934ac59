"""A run that was stopped or killed comes to the bits, and to the log, of one that was not."""

from pathlib import Path

import pytest

from preftune.models.settings import FullSettings
from tests import stock
from tests.resuming import Case, Start, assert_same, start, stopped_at

CASES = {
    "lora": Case(),
    "dropout": Case(adapter=stock.lora(dropout=0.3), train={"disable_dropout": False}),
    "accumulation off the grid": Case(train={"per_device_train_batch_size": 2, "logging_steps": 4, "save_steps": 3}),
    "two epochs": Case(train={"max_steps": -1, "num_train_epochs": 3.0}),
    "bfloat16 adapter": Case(adapter=stock.lora(dtype="bfloat16"), model={"dtype": "bfloat16"}),
    "dora": Case(adapter=stock.lora(name="dora", modules_to_save=["lm_head"])),
    "nf4": Case(model={"quantization": "nf4", "dtype": "bfloat16"}),
    "full": Case(adapter=FullSettings(name="full")),
    "shared": Case(engine="shared"),
    "packed": Case(engine="shared", train={"tokens_per_batch": 150}),
    "kto": Case(
        loss={"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        train={"per_device_train_batch_size": 4},
    ),
    "beta_dpo": Case(loss={"name": "beta_dpo", "beta": 0.1, "alpha": 6.0}),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_ends_in_the_bits_and_the_log_of_one_that_was_not(
    chatml_model: Path, pair_file: Path, tmp_path: Path, name: str
) -> None:
    def begin(directory: str) -> Start:
        return start(chatml_model, pair_file, tmp_path / directory, CASES[name])

    whole = begin("whole").go()
    assert stopped_at(begin("parts"), 3) == "stop at 3"
    resumed = begin("parts")
    assert resumed.saved.going_on is not None
    assert resumed.saved.going_on.step == 3
    resumed.go()
    assert_same(whole.weights(), resumed.weights())
    assert whole.events() == resumed.events()
    assert whole.trainer.totals().pairs == resumed.trainer.totals().pairs
