r"""Ids of words, remembered: a text is mostly words that were encoded before.

A pre-tokenizer that splits by one of the patterns below ends a piece before every " X", a space and an ASCII letter,
that follows a visible ASCII character: none of its alternatives holds a space except in front or in a run of white
space, and the only one that looks ahead, `\s+(?!\S)`, ends in white space. Pieces are encoded independently of each
other, and added tokens that hold no space and strip none cannot reach over the border. So a text may be cut there,
each part encoded once, and the ids joined.

A tokenizer with any other pre-tokenizer, normalizer or model is used as it is.
"""

import itertools
import json
import re
from typing import Any

_BORDER = re.compile(r"(?<=[!-~])(?= [A-Za-z])")
_LONGEST = 32  # characters of what is remembered: longer parts rarely come again
_MOST = 50_000  # parts that are remembered, some 12 MB; the frequent ones come first

# As tokenizer.json writes them: of GPT-4, Llama 3 and SmolLM3, and of Qwen 2 to 3. GPT-2's is ByteLevel's own.
_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
}


class Words:
    """Encodes texts with a backend tokenizer, each word once."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._ids: dict[str, list[int]] | None = {} if _splits_at_words(json.loads(backend.to_str())) else None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, to which nothing is added."""
        if self._ids is None:
            return self._encode(texts)
        parts = [_BORDER.split(text) for text in texts]
        new = list(set().union(*parts).difference(self._ids))
        once = []
        for part, ids in zip(new, self._encode(new), strict=True):
            self._ids[part] = ids
            if len(part) > _LONGEST or len(self._ids) > _MOST:
                once.append(part)
        encoded = [list(itertools.chain.from_iterable(map(self._ids.__getitem__, some))) for some in parts]
        for part in once:
            del self._ids[part]
        return encoded

    def _encode(self, texts: list[str]) -> list[list[int]]:
        self._backend.no_truncation()
        self._backend.no_padding()
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _splits_at_words(tokenizer: dict[str, Any]) -> bool:
    """Return whether what the module's text says holds for a tokenizer, given as tokenizer.json."""
    normalizer, model = tokenizer["normalizer"] or {"type": "NFC"}, tokenizer["model"]
    return (
        normalizer["type"] == "NFC"
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and all(_stays_within(token) for token in tokenizer["added_tokens"])
        and _is_known(tokenizer["pre_tokenizer"] or {"type": None})
    )


def _stays_within(token: dict[str, Any]) -> bool:
    strips = token["lstrip"] or token["rstrip"] or token["single_word"]
    return not strips and not any(character.isspace() for character in token["content"])


def _is_known(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "ByteLevel":
        return bool(pre_tokenizer["use_regex"] and not pre_tokenizer["add_prefix_space"])
    if pre_tokenizer["type"] != "Sequence" or len(pre_tokenizer["pretokenizers"]) != 2:
        return False
    split, byte_level = pre_tokenizer["pretokenizers"]
    return (
        split["type"] == "Split"
        and split["pattern"].get("Regex") in _PATTERNS
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and byte_level["type"] == "ByteLevel"
        and not (byte_level["use_regex"] or byte_level["add_prefix_space"])
    )
