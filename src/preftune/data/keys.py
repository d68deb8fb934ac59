"""What a pair is known by: digests that tell when two pairs, or two prompts, are the same."""

import hashlib
import json
import unicodedata
from typing import NamedTuple

import numpy as np

from preftune.pairs import PreferencePair

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A digest of 16 bytes; two of a million different pairs share one with a probability of 1e-27."""


class PairKeys(NamedTuple):
    """Digests of a pair.

    Attributes:
        content: Of prompt and answers.
        normalized: Of prompt and answers, but for case, white space and Unicode form.
        prompt: Of the prompt, normalized.
        unordered: Of prompt and answers, whichever is preferred.
        is_first: 1 where the preferred answer has the lower digest, else 0: of two pairs with the same `unordered`
            that differ here, one contradicts the other.
        carried: Of the numbers that travel with the pair.
    """

    content: bytes
    normalized: bytes
    prompt: bytes
    unordered: bytes
    is_first: int
    carried: bytes


def keys_of(pair: PreferencePair, prompt: str) -> PairKeys:
    """Return the digests of `pair`, whose prompt is written as the JSON text `prompt`."""
    asked, chosen, rejected = (_digest(text) for text in (prompt, pair.chosen, pair.rejected))
    turns = "\0".join(f"{turn['role']} {_normal(turn['content'])}" for turn in pair.prompt)  # no text holds NUL
    normal = [_digest(text) for text in (turns, _normal(pair.chosen), _normal(pair.rejected))]
    return PairKeys(
        content=_joined(asked, chosen, rejected),
        normalized=_joined(*normal),
        prompt=normal[0][: KEY.itemsize],
        unordered=_joined(asked, *sorted((chosen, rejected))),
        is_first=int(chosen < rejected),
        carried=_joined(json.dumps(dict(pair.extras), sort_keys=True).encode()),
    )


def _normal(text: str) -> str:
    form = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(form.casefold().split())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _joined(*digests: bytes) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()[: KEY.itemsize]
