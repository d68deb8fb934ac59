"""Tokenizer and policy from local directories: what is loaded, trained, quantised, refused."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from preftune.models import source
from preftune.models.policy import count_parameters, load_policy, save_policy
from preftune.models.settings import FullSettings, LowRankSettings, ModelSettings
from preftune.models.tokenizer import load_tokenizer
from preftune.refusals import Refusal
from tests import stock


def policy(path: Path, adapter: LowRankSettings | FullSettings | None = None, **changes: object) -> torch.nn.Module:
    settings = stock.model_settings(path, **changes)
    return load_policy(settings, adapter or stock.lora(), source.locate(settings), seed=0)


def test_the_end_of_turn_is_what_the_template_writes_last(chatml_model: Path, llama3_model: Path) -> None:
    for path, end in ((chatml_model, "<|im_end|>"), (llama3_model, "<|eot_id|>")):
        settings = stock.model_settings(path)
        assert load_tokenizer(settings, source.locate(settings)).end_of_turn == end


def test_a_recipes_token_that_a_local_copy_lacks_is_replaced_and_said(chatml_model: Path) -> None:
    settings = stock.model_settings(chatml_model, end_of_turn="<|eot_id|>", pad_token="<|reserved|>")
    chat = load_tokenizer(settings, source.locate(settings))
    assert (chat.end_of_turn, chat.tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert [note.partition(" is not")[0] for note in chat.notes] == [
        "model.end_of_turn <|eot_id|>",
        "model.pad_token <|reserved|>",
    ]


def test_a_base_model_without_a_chat_template_is_refused_with_the_remedy(chatml_model: Path, tmp_path: Path) -> None:
    stock.save_model(tmp_path, stock.CHATML)
    (tmp_path / "chat_template.jinja").unlink()
    settings = stock.model_settings(tmp_path, start="base")
    with pytest.raises(
        Refusal, match=r"has no chat template \(model\.start=base\): set model\.chat_template to a Jinja"
    ):
        load_tokenizer(settings, source.locate(settings))
    template = tmp_path / "mine.jinja"
    template.write_text(stock.CHATML.template)
    mended = stock.model_settings(tmp_path, start="base", chat_template=str(template))
    assert load_tokenizer(mended, source.locate(mended)).end_of_turn == "<|im_end|>"


def test_a_template_that_ends_in_plain_text_is_refused(chatml_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    settings = stock.model_settings(chatml_model, chat_template=str(template))
    with pytest.raises(Refusal, match="the chat template must end the assistant's turn with a special token"):
        load_tokenizer(settings, source.locate(settings))


def test_a_chat_template_that_is_not_there_is_refused(chatml_model: Path) -> None:
    settings = stock.model_settings(chatml_model, chat_template="no.jinja")
    with pytest.raises(
        Refusal, match=r"model\.chat_template must be a Jinja file, got no\.jinja, which does not exist"
    ):
        load_tokenizer(settings, source.locate(settings))


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"model\.path must be a directory that holds config\.json, got "):
        source.locate(stock.model_settings(tmp_path))


def test_a_hub_that_cannot_be_reached_is_named_with_the_two_ways_on() -> None:
    fields = stock.model_settings(None).model_dump() | {"source": "hub", "id": "nobody/nothing", "path": None}
    settings = ModelSettings.model_validate(fields)
    with pytest.raises(Refusal, match=r"nobody/nothing could not be reached on the hub for its tokenizer") as caught:
        load_tokenizer(settings, source.locate(settings))
    assert "set model.path to a local copy, or fill the hub's cache" in str(caught.value)


def test_a_gated_model_without_a_token_says_so() -> None:
    from huggingface_hub.errors import GatedRepoError

    def load() -> None:
        with source.reachable(source.ModelSource("meta-llama/Meta-Llama-3-8B-Instruct", "main"), "weights"):
            raise OSError("You are trying to access a gated repo.") from GatedRepoError(
                "gated", response=stock.response(403)
            )

    with pytest.raises(Refusal, match="is gated: accept its licence on its hub page and set HF_TOKEN"):
        load()


def test_broken_weights_are_named(chatml_model: Path, tmp_path: Path) -> None:
    stock.save_model(tmp_path, stock.CHATML)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(Refusal, match="weights must load from"):
        policy(tmp_path)


def test_a_fresh_adapter_is_float32_and_leaves_the_model_as_it_was(chatml_model: Path) -> None:
    census = count_parameters(policy(chatml_model, dtype="bfloat16"))
    assert census.trainable_dtypes == ["float32"]
    # r=4 on seven projections of two layers: 4 * (in + out) each
    shapes = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    assert census.trainable == 2 * sum(4 * (a + b) for a, b in shapes)
    ids = torch.arange(10)[None]
    adapted = policy(chatml_model)
    assert isinstance(adapted, PeftModel)
    with torch.no_grad():
        on = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            off = adapted(input_ids=ids).logits
    assert torch.equal(on, off)


def test_the_seed_decides_the_adapters_start(chatml_model: Path) -> None:
    settings = stock.model_settings(chatml_model)
    place = source.locate(settings)
    one, same, other = (
        torch.cat(
            [
                p.flatten()
                for n, p in load_policy(settings, stock.lora(), place, seed=seed).named_parameters()
                if "lora_A" in n
            ]
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nf4_quantises_every_projection(chatml_model: Path) -> None:
    census = count_parameters(policy(chatml_model, quantization="nf4", dtype="bfloat16"))
    assert census.quantized_layers == 14
    assert census.trainable_dtypes == ["float32"]
    assert census.parameters == count_parameters(policy(chatml_model)).parameters


def test_quantisation_that_finds_no_layer_is_refused(tmp_path: Path) -> None:
    path = stock.save_model(tmp_path, stock.CHATML, layers=0)
    with pytest.raises(Refusal, match=r"model\.quantization=nf4 must find linear layers to quantise in .*, found none"):
        policy(path, quantization="nf4")


def test_an_evaluation_leaves_the_gradient_of_nf4_layers_alone(chatml_model: Path) -> None:
    model = policy(chatml_model, quantization="nf4", dtype="bfloat16")
    ids = torch.arange(10)[None]

    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    assert torch.equal(gradient(), before)


def test_full_training_trains_every_weight(chatml_model: Path) -> None:
    census = count_parameters(policy(chatml_model, FullSettings(name="full")))
    assert census.trainable == census.parameters


def test_an_adapter_on_the_lm_head_is_refused(chatml_model: Path) -> None:
    with pytest.raises(Refusal, match=r"model\.target_modules must not name lm_head"):
        policy(chatml_model, target_modules=["q_proj", "lm_head"])


def test_targets_that_match_nothing_are_refused(chatml_model: Path) -> None:
    with pytest.raises(Refusal, match=r"model\.target_modules must name modules of this model: "):
        policy(chatml_model, target_modules=["nothing"])


def test_a_saved_adapter_goes_on_with_the_same_numbers(chatml_model: Path, tmp_path: Path) -> None:
    first = policy(chatml_model)
    for name, parameter in first.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    settings = stock.model_settings(chatml_model)
    chat = load_tokenizer(settings, source.locate(settings))
    saved = save_policy(first, chat.tokenizer, tmp_path)
    second = policy(chatml_model, stock.lora(path=str(saved)))
    assert saved.name == "adapter"
    assert count_parameters(second).trainable == count_parameters(first).trainable
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(first(input_ids=ids).logits, second(input_ids=ids).logits)


def test_an_adapter_path_without_an_adapter_is_refused(chatml_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"adapter\.path must be a directory that holds adapter_config\.json, got "):
        policy(chatml_model, stock.lora(path=str(tmp_path)))
