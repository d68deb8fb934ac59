"""Models and tokenizers made in-process: real transformers classes, a second to build."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from preftune.data.ledger import Ledger, SplitLedger
from preftune.data.settings import DataSettings
from preftune.data.store import PairStore, encoded, write_store
from preftune.data.table import PairTable
from preftune.models.settings import LowRankSettings, ModelSettings
from preftune.pairs import PreferencePair
from preftune.reporting.pair_report import (
    BINS,
    Answer,
    Example,
    LengthBias,
    Lengths,
    LongPair,
    PairReport,
    Quartile,
    Shares,
)

TEXT = [
    "The quick brown fox jumps over the lazy dog and asks a question about the weather.",
    "Please write a short answer to this question, and say why you think that it is right.",
    "system user assistant begin end turn header Human Assistant prompt chosen rejected",
] * 20


@dataclass(frozen=True)
class Style:
    """A chat template with the special tokens that it writes."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str | None


CHATML = Style(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    None,
    "<|im_end|>",
    "<|endoftext|>",
)
LLAMA3 = Style(
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
    "<|begin_of_text|>",
    "<|end_of_text|>",
    None,
)


def tokenizer(style: Style) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of 400 entries and give it `style`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(style.special), initial_alphabet=alphabet)
    bpe.train_from_iterator(TEXT, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=style.bos, eos_token=style.eos, pad_token=style.pad)
    made.chat_template = style.template
    return made


def save_model(directory: Path, style: Style, *, layers: int = 2, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a Llama of hidden size 64 with its tokenizer; return the directory."""
    made = tokenizer(style)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=made.eos_token_id,
        bos_token_id=made.bos_token_id,
        pad_token_id=made.pad_token_id,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    made.save_pretrained(directory)
    return directory


def model_settings(path: Path | None, **changes: object) -> ModelSettings:
    """Return the settings of conf/model/local.yaml for `path`, with `changes`."""
    fields: dict[str, object] = {
        "name": "local",
        "source": "local",
        "path": str(path),
        "dtype": "float32",
        "quantization": None,
        "attention": "sdpa",
        "target_modules": "all-linear",
        "pad_token": None,
        "end_of_turn": None,
        "start": "instruct",
        "learning_rate": 1e-3,
    }
    return ModelSettings.model_validate(fields | changes)


def data_settings(path: Path, **changes: object) -> DataSettings:
    """Return the settings of conf/data/jsonl.yaml for `path`, with `changes`."""
    fields: dict[str, object] = {
        "name": "jsonl",
        "source": "files",
        "path": str(path),
        "dialect": "messages",
        "test_size": 0.2,
        "overlong": "drop",
    }
    return DataSettings.model_validate(fields | changes)


def write_pairs(path: Path, made: list[PreferencePair]) -> Path:
    """Write pairs as JSON lines in the layout of `messages`; return the path."""
    rows = [{"prompt": list(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected} for pair in made]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(made: Sequence[PreferencePair], **facts: object) -> PairTable:
    """Return pairs as a table on disk, in batches of three."""
    directory = Path(tempfile.mkdtemp())
    write_store(directory, [encoded(made[start : start + 3]) for start in range(0, len(made), 3)], facts)
    return PairTable([PairStore(directory)])


def lora(**changes: object) -> LowRankSettings:
    """Return a small adapter's settings, with `changes`."""
    fields: dict[str, object] = {
        "name": "lora",
        "r": 4,
        "alpha": 8,
        "dropout": 0.0,
        "dtype": "float32",
        "modules_to_save": [],
        "path": None,
    }
    return LowRankSettings.model_validate(fields | changes)


def pairs(count: int) -> list[PreferencePair]:
    """Make `count` short pairs with answers of ragged lengths."""
    return [
        PreferencePair(
            ({"role": "user", "content": f"Question {place}: what is {place} and {place + 1}?"},),
            "It is " + "very " * (place % 5) + f"surely {2 * place + 1}.",
            "No " + "idea " * (place % 3) + f"{place}.",
            f"made:{place}",
        )
        for place in range(count)
    ]


def pair_report(**changes: Any) -> PairReport:
    """Return a report of three pairs, each of 4 tokens of prompt and answers of 2 and 1, with `changes`."""
    hello, bye = Answer("hello", "<|im_end|>\n"), Answer("bye", "")
    fields: dict[str, Any] = {
        "ledger": Ledger(SplitLedger("x.jsonl", 5, {"held out": 2}, truncated=1), SplitLedger("x.jsonl", 2)).to_json(),
        "prompt": Lengths(4, 4, 4, 4, (3, *[0] * (BINS - 1))),
        "chosen": Lengths(2, 2, 2, 2, (3, *[0] * (BINS - 1))),
        "rejected": Lengths(1, 1, 1, 1, (3, *[0] * (BINS - 1))),
        "length_bias": LengthBias(3, 0, 0, 1.0, (Quartile(1, 1, 3, 3),)),
        "scores": None,
        "shares": Shares(loss=3 / 11, second_prompt=4 / 11, padding=0.5, batch=2),
        "duplicates": 0,
        "overlap": 0,
        "sources": {"x.jsonl": 3},
        "extras": {},
        "longest": (LongPair("x.jsonl:1", 6),),
        "examples": (Example("x.jsonl:1", "ask", hello, bye),),
        "warnings": (),
    }
    return PairReport(**fields | changes)


def response(status: int) -> httpx.Response:
    """Return a hub's answer of `status`, as its errors carry one."""
    return httpx.Response(status, request=httpx.Request("GET", "http://localhost"))
