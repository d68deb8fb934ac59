"""The shared pass: for any pairs the log-probabilities and gradients of each sequence computed alone."""

from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from preftune.engine.packing import part_of
from preftune.engine.shared import Kind, SharedPass, causal_model, prepare_attention
from tests.engine import (
    EXACT,
    RAGGED,
    Pair,
    alone,
    apart,
    batch,
    drawn_pairs,
    gradient,
    inputs,
    model,
    slopes_like,
)

few = settings(max_examples=20, deadline=None)
MEASURED = ("entropy", "mean_logits", "is_top1", "log_sum_sq_probs")


@cache
def prepared(family: str = "phi", dtype: torch.dtype = torch.float64, head: bool = True) -> PreTrainedModel:
    made = model(family, dtype=dtype)
    assert prepare_attention(made) == "blocks"
    for parameter in made.get_output_embeddings().parameters():
        parameter.requires_grad_(head)
    return made


def same_as_alone(of: PreTrainedModel, kind: Kind, pairs: list[Pair]) -> None:
    made = batch(pairs)
    ours, theirs = SharedPass(of, kind)(**inputs(made)).log_probs, alone(of, made)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    slopes = slopes_like(theirs)
    assert apart(gradient(of, ours, slopes), gradient(of, theirs, slopes)) < 1e-8


@given(drawn_pairs(), st.sampled_from(["blocks", "mask"]), st.booleans())
@example([([3], [4], [5])], "blocks", True)
@example([([3], [4], [4, 5])], "blocks", False)
@example([([3], [4, 5], [4])], "mask", False)
@example(RAGGED, "blocks", False)
@example(RAGGED, "mask", True)
@few
def test_any_pairs_give_the_log_probabilities_and_gradients_of_each_sequence_alone(
    pairs: list[Pair], kind: Kind, head: bool
) -> None:
    same_as_alone(prepared(head=head), kind, pairs)


@pytest.mark.parametrize("family", [family for family in EXACT if family != "phi"])
@pytest.mark.parametrize("kind", ["blocks", "mask"])
def test_so_do_other_families(family: str, kind: Kind) -> None:
    same_as_alone(prepared(family), kind, RAGGED)


@given(drawn_pairs(6), st.data())
@few
def test_any_packing_has_the_loss_and_gradient_of_the_whole_batch(pairs: list[Pair], data: st.DataObject) -> None:
    of, made = prepared(head=False), batch(pairs)
    order = data.draw(st.permutations(range(len(pairs))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(pairs)))) | {len(pairs)})
    parts = [order[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    slopes = torch.linspace(-1, 2, 2 * len(pairs)).double().reshape(2, -1)  # of each answer

    def cost(places: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        found = SharedPass(of, "blocks")(**inputs(part_of(made, places))).log_probs
        weights = slopes[:, places].reshape(-1, 1).expand(found.shape)
        return (found * weights).sum().detach(), gradient(of, found, weights)

    whole, split = cost(list(range(len(pairs)))), [cost(list(part)) for part in parts]
    torch.testing.assert_close(torch.stack([each[0] for each in split]).sum(), whole[0], rtol=1e-10, atol=1e-12)
    assert apart(torch.stack([each[1] for each in split]).sum(dim=0), whole[1]) < 1e-8


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_what_trl_measures_of_each_token_is_measured_the_same(family: str) -> None:
    every_token = [([3], [token], [token + 1, 2]) for token in range(3, 23)]  # the likeliest is among them
    of, made = model(family, dtype=torch.float32), batch(RAGGED + every_token)
    add_fused_lm_head(of, outputs=("log_probs", *MEASURED))
    stock = of(**inputs(made), use_cache=False, fused_lm_head=True)
    ours = SharedPass(of, prepare_attention(of), collision=True)(**inputs(made))
    torch.testing.assert_close(ours.log_probs, stock.log_probs, rtol=1e-5, atol=1e-5)
    for name in MEASURED:
        torch.testing.assert_close(getattr(ours, name), getattr(stock, name), rtol=1e-5, atol=1e-5)
    assert stock.is_top1.any()
    assert stock.is_top1.sum() < made["completion_mask"].sum()


def test_what_nothing_reads_is_not_there() -> None:
    of = prepared()
    outputs = SharedPass(of, "blocks", metrics=False)(**inputs(batch(RAGGED)))
    assert [getattr(outputs, name) for name in (*MEASURED, "hidden")] == [None] * 5


def test_the_hidden_states_are_those_before_each_completion_token_in_the_order_of_the_mask() -> None:
    of, made = prepared(), batch(RAGGED)
    states: list[torch.Tensor] = []
    hook = of.base_model.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
    for ids, attended in zip(made["input_ids"], made["attention_mask"], strict=True):
        of(input_ids=ids[None, : int(attended.sum())], use_cache=False)
    hook.remove()
    expected = [
        state[0, int((1 - completion[:length]).sum()) - 1 : length - 1]
        for state, completion, length in zip(
            states, made["completion_mask"], made["attention_mask"].sum(dim=1).tolist(), strict=True
        )
    ]
    ours = SharedPass(of, "blocks", hidden=True)(**inputs(made)).hidden
    torch.testing.assert_close(ours, torch.cat(expected), rtol=1e-10, atol=1e-12)


def test_the_logits_of_the_whole_row_are_never_computed() -> None:
    of, widths = prepared(), []
    hook = of.get_output_embeddings().register_forward_hook(lambda *call: widths.append(call[-1].shape[:-1].numel()))
    made = batch(RAGGED)
    SharedPass(of, "blocks")(**inputs(made))
    hook.remove()
    assert max(widths) <= made["completion_mask"].sum() < made["attention_mask"].sum()


def test_a_pass_that_fails_leaves_no_hook_behind() -> None:
    of = prepared()
    before = dict(of.base_model._forward_hooks)
    made = inputs(batch(RAGGED))
    with pytest.raises(IndexError):
        SharedPass(of, "blocks")(**made | {"input_ids": made["input_ids"] + 1000})
    assert dict(of.base_model._forward_hooks) == before


def test_other_calls_of_a_prepared_model_go_on_as_before() -> None:
    plain, ours = model("llama", dtype=torch.float32), model("llama", dtype=torch.float32)
    assert prepare_attention(ours) == "blocks"
    made = batch(RAGGED)
    given = {name: made[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(plain(**given).logits, ours(**given).logits)
    prompt = made["input_ids"][:1, :3]
    generated = [each.generate(prompt, max_new_tokens=4, do_sample=False) for each in (plain, ours)]
    assert torch.equal(*generated)


def test_the_model_itself_is_found_within_its_wrappers() -> None:
    of = prepared()
    assert causal_model(torch.nn.DataParallel(of)) is of
