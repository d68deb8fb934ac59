"""A run resumed from the middle ends in the same bits, on either engine, with the reference kept or in the loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.training.trainer import PairTrainer
from tests.test_trainer import Make, logged, make  # noqa: F401  a fixture

STEPS = 4


def trained(make: Make, directory: Path, *, keeps: bool, goes_on: str | None, **choices: Any) -> PairTrainer:  # noqa: F811
    trainer = make(max_steps=STEPS, verify="off", **choices)
    trainer.args.save_strategy, trainer.args.save_steps = "steps", STEPS // 2
    trainer.args.output_dir = str(directory)
    if keeps:
        trainer.keep_reference()
    trainer.train(resume_from_checkpoint=goes_on)
    return trainer


@pytest.mark.parametrize(
    "choices",
    [
        {"engine": "trl"},
        {"engine": "shared"},
        {"engine": "shared", "tokens_per_batch": 150},
        {"engine": "shared", "model": {"quantization": "nf4", "dtype": "bfloat16"}},
    ],
    ids=["stock", "shared", "packed", "nf4"],
)
@pytest.mark.parametrize("keeps", [False, True], ids=["live", "kept"])
def test_going_on_from_the_middle_gives_the_same_bits(
    make: Make,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choices: dict[str, Any],
    keeps: bool,
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    whole = trained(make, tmp_path / "whole", keeps=keeps, goes_on=None, **choices)
    halfway = tmp_path / "whole" / f"checkpoint-{STEPS // 2}"
    resumed = trained(make, tmp_path / "resumed", keeps=keeps, goes_on=str(halfway), **choices)
    losses = [
        [(step, metrics["loss"]) for step, metrics in logged(trainer) if "loss" in metrics and step > STEPS // 2]
        for trainer in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS // 2
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
