"""The shared engine beside stock TRL: families of models, ways to train, ways to cut a step."""

from functools import cache
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from trl.trainer.utils import add_fused_lm_head

from preftune.engine.shared import SharedPass, prepare_attention
from tests.engine import FAMILIES, RAGGED, apart, batch, gradient, inputs, model, slopes_like
from tests.engine_runs import Run, of_family, run


@pytest.mark.parametrize("family", [*FAMILIES, "olmo2", "cohere", "granite", "gemma3_text", "stablelm"])
def test_every_family_has_the_log_probabilities_and_gradients_of_trl(family: str) -> None:
    changes = {"logits_scaling": 3.0} if family == "granite" else {}
    of, made = model(family, dtype=torch.float32, **changes), batch(RAGGED)
    add_fused_lm_head(of)
    stock = of(**inputs(made), use_cache=False, fused_lm_head=True).log_probs
    slopes = slopes_like(stock) * made["completion_mask"][:, 1:]
    expected = gradient(of, stock, slopes)
    for kind in {"mask", prepare_attention(of)}:
        ours = SharedPass(of, kind)(**inputs(made)).log_probs
        assert_close(ours, stock, rtol=1e-4, atol=1e-4)
        assert apart(gradient(of, ours, slopes), expected) < 1e-4


@cache
def trained(engine: str, **settings: Any) -> Run:
    return run(engine, **settings)


def same(ours: Run, theirs: Run, tolerance: float = 1e-4) -> None:
    assert ours.trainer.engine.name == "shared"
    assert theirs.trainer.engine.name == "trl"
    assert ours.losses == pytest.approx(theirs.losses, abs=tolerance)
    assert len(ours.losses) == 3
    assert theirs.movement.norm() > 1e-3
    assert apart(ours.movement, theirs.movement) < 10 * tolerance


@pytest.mark.parametrize(
    "settings",
    [{"kind": "lora"}, {"kind": "dora"}, {"kind": "full"}, {"quantization": "nf4"}],
    ids=lambda each: " ".join(each.values()),
)
def test_whatever_trains_ends_where_stock_trl_ends(settings: dict[str, str]) -> None:
    same(trained("shared", **settings), trained("trl", **settings))


def test_a_model_of_few_bits_ends_there_within_its_rounding() -> None:
    same(trained("auto", dtype="bfloat16"), trained("trl", dtype="bfloat16"), tolerance=2e-2)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_activations_change_nothing(kind: str, reentrant: bool) -> None:
    checkpointed = run(
        "shared",
        kind=kind,
        verify="off" if reentrant else "first_batch",  # torch gives such a checkpoint's gradient by backward alone
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    same(checkpointed, trained("trl", kind=kind))


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_any_accumulation_ends_in_the_same_weights(micro_batch: int) -> None:
    same(run("shared", per_device_train_batch_size=micro_batch), trained("trl", kind="lora"))


@pytest.mark.parametrize("budget", [1, 130, 100_000])
def test_any_budget_of_tokens_ends_in_the_same_weights_and_metrics(budget: int) -> None:
    ours, theirs = run("shared", tokens_per_batch=budget), trained("trl", kind="lora")
    same(ours, theirs)


def test_the_mask_for_the_whole_row_ends_in_the_same_weights() -> None:
    policy = of_family("gemma2", sliding_window=256)
    runs = [run(engine, kind="full", policy=policy) for engine in ("auto", "trl")]
    assert runs[0].trainer.engine.kind == "mask"
    same(*runs)


@pytest.mark.parametrize(
    "loss",
    [{"name": "tdpo", "alpha": 0.5}, {"use_weighting": True}, {"ld_alpha": 0.3}],
    ids=lambda each: next(iter(each)),
)
def test_losses_that_read_distributions_or_places_end_in_the_same_weights(loss: dict[str, Any]) -> None:
    same(run("shared", loss=loss), run("trl", loss=loss))
