"""A model to measure on, made on the spot: random weights, and a tokenizer trained on the pairs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from preftune.models.settings import ModelSettings

VOCABULARY = 16_000  # entries of the tokenizer at most

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama_8m": {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 608,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama3_8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
    },
}

_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(directory: Path, shape: str, pairs: Path) -> Path:
    """Write a model of `shape` with random weights, and a byte-level BPE tokenizer with a ChatML template.

    The weights are drawn on the device where there is one, in bfloat16 for models beyond a billion parameters.

    Args:
        directory: Where to.
        shape: One of `SHAPES`.
        pairs: Text that the tokenizer is trained on.
    """
    tokenizer = _tokenizer(pairs)
    config = LlamaConfig(
        **SHAPES[shape],
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        dtype = torch.bfloat16 if config.hidden_size >= 2048 else torch.float32
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer(pairs: Path) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(pairs), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = _TEMPLATE
    return made


def _texts(pairs: Path) -> list[str]:
    """Return the strings of a file of JSON, or its lines."""
    text = pairs.read_text(encoding="utf-8")
    if pairs.suffix != ".json":
        return text.splitlines()
    found: list[str] = []
    _gather(json.loads(text), found)
    return found


def _gather(value: object, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            _gather(each, found)
    elif isinstance(value, list):
        for each in value:
            _gather(each, found)


def local_model(directory: Path) -> ModelSettings:
    """Return the settings of conf/model/local.yaml for what lies in `directory`, in float32."""
    return ModelSettings.model_validate(
        {
            "name": "benchmark",
            "source": "local",
            "path": str(directory),
            "dtype": "float32",
            "quantization": None,
            "attention": "sdpa",
            "target_modules": "all-linear",
            "pad_token": None,
            "end_of_turn": None,
            "start": "instruct",
            "learning_rate": 1e-4,
        }
    )
