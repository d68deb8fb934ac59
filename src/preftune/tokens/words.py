r"""Ids of words, remembered: a text is mostly words that were encoded before.

A pre-tokenizer that splits by one of the patterns below begins a piece at every single space between two visible ASCII
characters: none of its alternatives holds a space but in front or in a run of white space, and the only one that looks
ahead, `\s+(?!\S)`, ends in white space. Pieces are encoded independently of each other, and added tokens that hold no
space and strip none cannot reach over the border. So a text may be cut there, each part encoded once, and the ids
joined.

A text may be cut around an added token, too, which the tokenizer takes out of it first. Where every added token is of
the form `<...>` or `[...]`, with no such bracket within, none can hold or overlap another.

A tokenizer with any other pre-tokenizer, normalizer or model is used as it is.
"""

import itertools
import json
import re
from typing import Any

_BRACKETS = re.compile(r"<[^<>]*>|\[[^\[\]]*\]")
_FIRST = "\0"
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
        tokenizer = json.loads(backend.to_str())
        self._ids: dict[str, list[int]] | None = {} if _splits_at_words(tokenizer) else None
        added = [token["content"] for token in tokenizer["added_tokens"]]
        self._added = added if all(map(_BRACKETS.fullmatch, added)) else []

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, to which nothing is added."""
        if self._ids is None or any(_FIRST in text for text in texts):
            return self._encode(texts)
        written = [token for token in self._added if token in texts[0]]
        words = [_words(text, written) for text in texts]
        new = set().union(*words).difference(self._ids)
        if odd := {word for word in new if not _ends_at_borders(word)}:
            words = [some if odd.isdisjoint(some) else _merged(some) for some in words]
            new = set().union(*words).difference(self._ids)
        once = self._learn(list(new))
        encoded = [list(itertools.chain.from_iterable(map(self._ids.__getitem__, some))) for some in words]
        for word in once:
            del self._ids[word]
        return encoded

    def _learn(self, words: list[str]) -> list[str]:
        """Encode `words`; return those that are not to be remembered."""
        once = []
        ids = self._ids if self._ids is not None else {}
        texts = [word[1:] if word.startswith(_FIRST) else f" {word}" for word in words]
        for word, encoded in zip(words, self._encode(texts), strict=True):
            ids[word] = encoded
            if len(word) > _LONGEST or len(ids) > _MOST or not _ends_at_borders(word):
                once.append(word)
        return once

    def _encode(self, texts: list[str]) -> list[list[int]]:
        self._backend.no_truncation()
        self._backend.no_padding()
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _words(text: str, tokens: list[str]) -> list[str]:
    """Return the words of `text`, each less the space before it, the first of each stretch marked by `_FIRST`."""
    for token in tokens:
        text = text.replace(token, f" {_FIRST}{token} {_FIRST}")
    return f"{_FIRST}{text}".split(" ")


def _ends_at_borders(word: str) -> bool:
    begins = word.startswith(_FIRST) or "!" <= word[:1] <= "~"
    return begins and (word == _FIRST or "!" <= word[-1] <= "~")


def _merged(words: list[str]) -> list[str]:
    """Join words with those before them from which no border divides them."""
    merged: list[str] = []
    for word in words:
        if word.startswith(_FIRST) or (
            "!" <= word[:1] <= "~" and (merged[-1] == _FIRST or "!" <= merged[-1][-1] <= "~")
        ):
            merged.append(word)
        else:
            merged[-1] += f" {word}"
    return merged


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
