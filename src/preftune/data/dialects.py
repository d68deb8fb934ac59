"""One small function a row layout: row in, pair out.

A dialect raises `RowError` for the first field that does not hold what it reads; whether the pair makes
sense (empty answers, equal answers, whose turn is last) is for `pairs.faults`.
"""

import re
from collections.abc import Callable

from preftune.data.rendered import unrendered
from preftune.data.rows import Row, RowError, shown
from preftune.data.settings import SAME_NAMES, ColumnSettings
from preftune.data.turns import (
    Turns,
    read_answer,
    read_prompt,
    read_text,
    read_turns,
    with_system,
)
from preftune.pairs import Message, PreferencePair

Dialect = Callable[[Row], PreferencePair]

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


def messages(row: Row, names: ColumnSettings = SAME_NAMES) -> PreferencePair:
    """`prompt`, `chosen` and `rejected`, or what `names` calls them, each plain text or messages; optional `system`."""
    asked = names.prompt or "prompt"
    system = row.columns.get(names.system or "system")
    return _pair(row, with_system(system, read_prompt(row.columns.get(asked), asked)), names)


def ultrafeedback(row: Row) -> PreferencePair:
    """`prompt` as text; `chosen` and `rejected` as whole dialogues that begin alike; optional `system`."""
    asked = read_text(row.columns.get("prompt"), "prompt")
    chosen = read_turns(row.columns.get("chosen"), "chosen")
    shared = chosen[:-1]
    if Message(role="user", content=asked) not in shared:
        raise RowError(f"chosen must hold the user's turn that prompt repeats, got {shown(list(shared))}")
    return _pair(row, with_system(row.columns.get("system"), shared))


def openhermes(row: Row) -> PreferencePair:
    """`question`, `prompt` or `input` (the first that is there); optional `system`; `chosen`, `rejected`.

    Each is plain text, messages, or rendered text, which is read back to messages.
    """
    names = ("question", "prompt", "input")
    asked = next((name for name in names if row.columns.get(name) is not None), "question")
    read = ("system", asked, "chosen", "rejected")
    values = {name: unrendered(row.columns.get(name), name) for name in read}
    prompt = with_system(_system_text(values["system"]), read_prompt(values[asked], asked))
    return _pair(Row(row.origin, values), prompt)


def implicit(row: Row) -> PreferencePair:
    """`chosen` and `rejected` as whole dialogues; the prompt is what both begin with, up to the user's last turn.

    Optional `system`. A dialogue is messages, or rendered text, which is read back to messages.
    """
    dialogues = {name: read_turns(unrendered(row.columns.get(name), name), name) for name in ("chosen", "rejected")}
    prompt = _shared_turns(dialogues["chosen"], dialogues["rejected"])
    answers = {}
    for name, turns in dialogues.items():
        roles = [turn["role"] for turn in turns[len(prompt) :]]
        if roles != ["assistant"]:
            raise RowError(
                f"{name} must end with one assistant's turn after the shared turns, got {', '.join(roles) or 'none'}"
            )
        answers[name] = turns[-1]["content"]
    return PreferencePair(
        with_system(row.columns.get("system"), prompt), answers["chosen"], answers["rejected"], row.origin
    )


def hh_rlhf(row: Row) -> PreferencePair:
    r"""`chosen` and `rejected` as transcripts, `\n\nHuman: ...\n\nAssistant: ...`.

    The prompt is their common part up to its last `Assistant:`. White space around a turn is dropped.
    """
    chosen = read_text(row.columns.get("chosen"), "chosen")
    rejected = read_text(row.columns.get("rejected"), "rejected")
    marker = "\n\nAssistant:"
    end = _common_prefix(chosen, rejected).rfind(marker)
    if end < 0:
        raise RowError(
            r"chosen and rejected must begin with the same turns up to an '\n\nAssistant:', "
            f"got {shown(chosen)} and {shown(rejected)}"
        )
    answers = {"chosen": chosen, "rejected": rejected}
    for name, transcript in answers.items():
        answers[name] = transcript[end + len(marker) :].strip()
        if another := _HH_TURN.search(answers[name]):
            raise RowError(f"{name} must end with one answer after the shared turns, got another {another[1]!r} turn")
    return PreferencePair(_transcript(chosen[:end]), answers["chosen"], answers["rejected"], row.origin)


def orca(row: Row) -> PreferencePair:
    """`system` (may be empty), `question`, `chosen` and `rejected` as plain text."""
    prompt = read_prompt(read_text(row.columns.get("question"), "question"), "question")
    return _pair(row, with_system(row.columns.get("system"), prompt))


def sharegpt(row: Row) -> PreferencePair:
    """`conversations` of `{from, value}`; `chosen` and `rejected` one `{from, value}`; optional `system`."""
    prompt = read_turns(row.columns.get("conversations"), "conversations")
    return _pair(row, with_system(row.columns.get("system"), prompt))


DIALECTS: dict[str, Dialect] = {
    "messages": messages,
    "ultrafeedback": ultrafeedback,
    "openhermes": openhermes,
    "implicit": implicit,
    "hh_rlhf": hh_rlhf,
    "orca": orca,
    "sharegpt": sharegpt,
}

COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("prompt",), ("chosen",), ("rejected",)),
    "ultrafeedback": (("prompt",), ("chosen",), ("rejected",)),
    "openhermes": (("question", "prompt", "input"), ("chosen",), ("rejected",)),
    "implicit": (("chosen",), ("rejected",)),
    "hh_rlhf": (("chosen",), ("rejected",)),
    "orca": (("system",), ("question",), ("chosen",), ("rejected",)),
    "sharegpt": (("conversations",), ("chosen",), ("rejected",)),
}
"""The columns that each dialect cannot do without; of a group, one is enough."""


def _pair(row: Row, prompt: Turns, names: ColumnSettings = SAME_NAMES) -> PreferencePair:
    answers = (names.chosen or "chosen", names.rejected or "rejected")
    chosen, rejected = (read_answer(row.columns.get(name), name, prompt) for name in answers)
    return PreferencePair(prompt, chosen, rejected, row.origin)


def _system_text(value: object) -> object:
    if not isinstance(value, list):
        return value
    if [turn["role"] for turn in value] != ["system"]:
        raise RowError(f"system must be text or one system turn, got {shown(value)}")
    return value[0]["content"]


def _common_prefix(first: str, second: str) -> str:
    both = zip(first, second, strict=False)
    end = next((place for place, (a, b) in enumerate(both) if a != b), min(len(first), len(second)))
    return first[:end]


def _shared_turns(first: Turns, second: Turns) -> Turns:
    same = [a == b for a, b in zip(first, second, strict=False)]
    count = same.index(False) if False in same else len(same)
    users = [place for place in range(count) if first[place]["role"] == "user"]
    if not users:
        raise RowError(
            "chosen and rejected must begin with the same turns up to one of the user's, "
            f"got {shown(list(first))} and {shown(list(second))}"
        )
    return first[: users[-1] + 1]


def _transcript(text: str) -> Turns:
    before, *parts = _HH_TURN.split(text)
    if before.strip() or not parts:
        raise RowError(rf"chosen must begin with '\n\nHuman:', got {shown(text)}")
    return tuple(
        Message(role="user" if name == "Human" else "assistant", content=content.strip())
        for name, content in zip(parts[::2], parts[1::2], strict=True)
    )
