"""Tokenizers of the families that people tune: built like the published ones, of a few hundred entries each.

Normalizer, pre-tokenizer, flags of the special tokens and chat template are a family's own; the vocabulary is trained
on a few lines. The templates are written from the published formats.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from preftune.models.tokenizer import ChatTokenizer

CORPUS = [
    "What is the answer to the question? It is the short one, and here is why I think that it is right.",
    "def add(first, second):\n\treturn first + second\n\n\nprint(add(12, 345))\n\n    # done\n",
    "a list [[1, 2], [3]] user assistant model system think \n\n\n",
    "naïve café e\u0301 e\u0301 über 你好世界 שלום مرحبا",
] * 10

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN25 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + CHATML
)
QWEN3 = (
    "{%- set found = namespace(last=-1) -%}"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set found.last = loop.index0 %}{% endif %}{% endfor -%}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{%- set parts = m.content.split('</think>') -%}"
    "{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' -%}"
    "{{ '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > found.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif -%}"
    "{{ parts[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
)
MISTRAL_PLAIN = (
    "{{ bos_token }}" + ALTERNATING + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_CONTROL = (
    "{{ bos_token }}" + ALTERNATING + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + ALTERNATING + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A family of chat tokenizers.

    Attributes:
        make: Builds the tokenizer without its special tokens' roles.
        template: Its chat template.
        bos: What it begins a text with; None for nothing.
        end: Token that ends a turn.
        system: The template takes a system turn.
        cut: The template writes a control token before every answer.
        merges: Cases whose answer merges with the end of the prompt.
    """

    make: Callable[[], Tokenizer]
    template: str
    bos: str | None
    end: str
    system: bool
    cut: bool
    merges: frozenset[str] = frozenset()

    def chat(self) -> ChatTokenizer:
        """Build the tokenizer."""
        made = PreTrainedTokenizerFast(tokenizer_object=self.make(), bos_token=self.bos, eos_token=self.end)
        made.chat_template = self.template
        return ChatTokenizer(made, self.end)


def control(*tokens: str) -> list[AddedToken]:
    """Return tokens with the flags that the families' control tokens have."""
    return [
        AddedToken(token, special=True, normalized=False, lstrip=False, rstrip=False, single_word=False)
        for token in tokens
    ]


def begins_with(made: Tokenizer, bos: str) -> Tokenizer:
    """Let a text begin with `bos` where special tokens are asked for."""
    made.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
    return made


def byte_level(tokens: list[str], split: str | None, *, nfc: bool = False, plain: tuple[str, ...] = ()) -> Tokenizer:
    """Return a byte-level BPE; `split` is the regex before it, None for GPT-2's; `plain` tokens are not special."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC() if nfc else None
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    made.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), bytes_]) if split else bytes_
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(control(*tokens))
    made.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    return made


def sentencepiece(tokens: list[str]) -> Tokenizer:
    """Return a BPE over "▁" for the space with bytes for what it does not know; the caller sets how "▁" comes in."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for text in CORPUS for line in text.split()]  # a newline and a tab are bytes, and no pieces
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=350, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    known = ["<unk>", *tokens, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(known))}
    merges = [tuple(merge) for merge in model["merges"]]
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(control("<unk>", *tokens))
    return made


def legacy(*tokens: str, bos: bool) -> Tokenizer:
    """Llama-2's and Mistral v0.1's way: every piece of text gets a "▁" in front, and nothing splits it."""
    made = sentencepiece(["<s>", "</s>", *tokens])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return begins_with(made, "<s>") if bos else made


def metaspace(*tokens: str) -> Tokenizer:
    """Mistral v0.3's way: the first piece of a text alone gets a "▁" in front."""
    made = sentencepiece(["<s>", "</s>", *tokens])
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return begins_with(made, "<s>")


def gemma() -> Tokenizer:
    """Gemma's way: a space becomes "▁", nothing is put in front; runs of newlines are tokens that are not special."""
    made = sentencepiece(["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"])
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_tokens([AddedToken("\n" * count, normalized=False, special=False) for count in (2, 3, 4)])
    return begins_with(made, "<bos>")


_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

FAMILIES = {
    "chatml": Family(
        lambda: byte_level(_CHATML, None), CHATML, None, "<|im_end|>", True, True, frozenset({"two newlines"})
    ),
    "llama3": Family(
        lambda: begins_with(byte_level(_LLAMA3, SPLIT % 3), "<|begin_of_text|>"),
        LLAMA3,
        "<|begin_of_text|>",
        "<|eot_id|>",
        True,
        True,
    ),
    "qwen2.5": Family(
        lambda: byte_level(_CHATML, SPLIT % 1, nfc=True),
        QWEN25,
        None,
        "<|im_end|>",
        True,
        True,
        frozenset({"newline", "two newlines"}),
    ),
    "qwen3": Family(
        lambda: byte_level(_CHATML, SPLIT % 1, nfc=True, plain=("<think>", "</think>")),
        QWEN3,
        None,
        "<|im_end|>",
        True,
        True,
    ),
    "mistral-v0.1": Family(lambda: legacy(bos=True), MISTRAL_PLAIN, "<s>", "</s>", False, False),
    "mistral-v0.3": Family(lambda: metaspace("[INST]", "[/INST]"), MISTRAL_CONTROL, "<s>", "</s>", False, True),
    "zephyr": Family(lambda: legacy(bos=False), ZEPHYR, "<s>", "</s>", True, True),
    "gemma": Family(gemma, GEMMA, "<bos>", "<end_of_turn>", False, True),
}


@cache
def chat(name: str) -> ChatTokenizer:
    """Return the tokenizer of a family."""
    return FAMILIES[name].chat()
