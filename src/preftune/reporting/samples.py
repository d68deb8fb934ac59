"""Answers of reference and policy side by side, with the words in which they differ marked; as HTML."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preftune.reporting.page import safe
from preftune.reporting.run_files import finite, mapping, text_at

_FIRST, _MOST = 6, 64
# Comparing takes time in the square of the words; what is longer is shown up to here.
_WORDS, _CHARACTERS = 600, 8_000
_UNITS = {"kl": "log-ratio of the policy's answer, nats"}


def samples_section(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the section of the samples: the first ones, the others folded; nothing where there are none."""
    if not samples:
        return
    yield "<h2>Answers of reference and policy</h2>"
    yield (
        '<p class="quiet">To the same held-out prompts from the same seed. Words of the reference that the '
        "policy does not have are <del>underlined with dashes</del>, those that only the policy has "
        "<ins>underlined</ins>.</p>"
    )
    yield from map(_sample, samples[:_FIRST])
    if len(samples) > _FIRST:
        rest = samples[_FIRST:_MOST]
        yield f'<details class="more"><summary>{len(rest)} more</summary>{"".join(map(_sample, rest))}</details>'
    if len(samples) > _MOST:
        yield f'<p class="quiet">{len(samples) - _MOST:,} more stand in samples.jsonl.</p>'


def differences(reference: str, policy: str) -> tuple[str, str]:
    """Return both texts as HTML, each with the words marked that the other does not have at that place.

    Example:
        >>> differences("a good day", "a bad day")
        ('a <del>good</del> day', 'a <ins>bad</ins> day')
    """
    before, after = (re.findall(r"\S+\s*|\s+", text[:_CHARACTERS]) for text in (reference, policy))
    first, second = ([word.strip() for word in words[:_WORDS]] for words in (before, after))
    left, right = [], []
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        left.append(_marked(before[start:end], "del" if kind != "equal" else ""))
        right.append(_marked(after[begin:stop], "ins" if kind != "equal" else ""))
    for parts, words, text in ((left, before, reference), (right, after, policy)):
        parts.append(safe("".join(words[_WORDS:])))
        if len(text) > _CHARACTERS:
            parts.append(f' <span class="cut">{len(text) - _CHARACTERS:,} more characters</span>')
    return "".join(left), "".join(right)


def _marked(words: Sequence[str], element: str) -> str:
    text = "".join(words)
    if not element or not text.strip():
        return safe(text)
    bare = text.rstrip()
    return f"<{element}>{safe(bare)}</{element}>{safe(text[len(bare) :])}"


def _sample(sample: Mapping[str, Any]) -> str:
    reference, policy = text_at(sample, "reference"), text_at(sample, "policy")
    left, right = differences(reference, policy)
    same = '<p class="note">Both answers are the same.</p>' if reference == policy else ""
    numbers = "".join(
        f"<span>{safe(_UNITS.get(name, name))} <b>{value:.3g}</b></span>"
        for name, value in ((key, finite(found)) for key, found in sample.items())
        if value is not None
    )
    return (
        f'<article class="card example"><div class="prompt">{_prompt(sample.get("prompt"))}</div>'
        f'<div class="answers"><div><p class="label">Reference</p><div class="text">{left}</div></div>'
        f'<div><p class="label">Policy</p><div class="text">{right}</div></div></div>{same}'
        f'<p class="numbers">{numbers}</p></article>'
    )


def _prompt(prompt: object) -> str:
    """Return the turns of a prompt: the last one open, those before it folded."""
    if not isinstance(prompt, list):
        return _turn("prompt", str(prompt or ""))
    turns = [mapping(turn) for turn in prompt]
    drawn = [_turn(text_at(turn, "role"), text_at(turn, "content")) for turn in turns]
    before = f"{len(drawn) - 1} turn{'s' if len(drawn) > 2 else ''} before"
    folded = f'<details class="more"><summary>{before}</summary>{"".join(drawn[:-1])}</details>'
    return (folded if len(drawn) > 1 else "") + "".join(drawn[-1:])


def _turn(role: str, text: str) -> str:
    cut = f"{text[:_CHARACTERS]} ..." if len(text) > _CHARACTERS else text
    return f'<p class="label">{safe(role.capitalize())}</p><div class="text">{safe(cut)}</div>'
