"""One small function a row layout: row in, pair out, or answers with scores, of which pairs are made.

A dialect raises `RowError` for the first field that does not hold what it reads; whether the pair makes
sense (empty answers, equal answers, whose turn is last) is for `pairs.faults`.
"""

import re
from collections.abc import Callable, Mapping

from preftune.data.ranked import RankedAnswers
from preftune.data.rendered import unrendered
from preftune.data.rows import Row, RowError, shown
from preftune.data.scores import number
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

Dialect = Callable[[Row], PreferencePair | RankedAnswers]

_LABELS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_RANKS = ("rank", "overall_score", "score")
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
    asked = _first(row.columns, names)
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
    return PreferencePair(_transcript(chosen[:end], "chosen"), answers["chosen"], answers["rejected"], row.origin)


def orca(row: Row) -> PreferencePair:
    """`system` (may be empty), `question`, `chosen` and `rejected` as plain text."""
    prompt = read_prompt(read_text(row.columns.get("question"), "question"), "question")
    return _pair(row, with_system(row.columns.get("system"), prompt))


def sharegpt(row: Row) -> PreferencePair:
    """`conversations` of `{from, value}`; `chosen` and `rejected` one `{from, value}`; optional `system`."""
    prompt = read_turns(row.columns.get("conversations"), "conversations")
    return _pair(row, with_system(row.columns.get("system"), prompt))


def ranked(row: Row) -> RankedAnswers:
    r"""A prompt with a list of answers and their ranks or scores; optional `system`.

    Nectar: `prompt` as plain text, messages or `\n\nHuman: ...\n\nAssistant: `, and `answers` of `{answer, rank}`, of
    which 1 is the best: the score is -rank. UltraFeedback as it was rated: `instruction` or `prompt`, and
    `completions` of `{response, overall_score}` or `{response, score}`.
    """
    asked = _first(row.columns, ("prompt", "instruction"))
    listed = _first(row.columns, ("answers", "completions"))
    prompt = with_system(row.columns.get("system"), _prompt_or_transcript(row.columns.get(asked), asked))
    return RankedAnswers(prompt, _ranked_answers(row.columns.get(listed), listed), row.origin)


def rated(row: Row, score: str = "score") -> RankedAnswers:
    """`prompt`, `response` and a number in the column `score`: one of the answers to that prompt; optional `system`."""
    prompt = with_system(row.columns.get("system"), read_prompt(row.columns.get("prompt"), "prompt"))
    response = read_answer(row.columns.get("response"), "response", prompt)
    return RankedAnswers(prompt, ((response, number(row.columns.get(score), score)),), row.origin)


def labelled(row: Row) -> RankedAnswers:
    """`prompt`, `completion` and `label`, true (1.0) or false (0.0): one of the answers; optional `system`."""
    prompt = with_system(row.columns.get("system"), read_prompt(row.columns.get("prompt"), "prompt"))
    completion = read_answer(row.columns.get("completion"), "completion", prompt)
    label = row.columns.get("label")
    score = _LABELS.get(str(label).strip().lower())
    if score is None:
        raise RowError(f"label must be true or false, or 1 or 0, got {shown(label)}")
    return RankedAnswers(prompt, ((completion, score),), row.origin)


DIALECTS: dict[str, Dialect] = {
    "messages": messages,
    "ultrafeedback": ultrafeedback,
    "openhermes": openhermes,
    "implicit": implicit,
    "hh_rlhf": hh_rlhf,
    "orca": orca,
    "sharegpt": sharegpt,
    "ranked": ranked,
    "rated": rated,
    "labelled": labelled,
}

COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("prompt",), ("chosen",), ("rejected",)),
    "ultrafeedback": (("prompt",), ("chosen",), ("rejected",)),
    "openhermes": (("question", "prompt", "input"), ("chosen",), ("rejected",)),
    "implicit": (("chosen",), ("rejected",)),
    "hh_rlhf": (("chosen",), ("rejected",)),
    "orca": (("system",), ("question",), ("chosen",), ("rejected",)),
    "sharegpt": (("conversations",), ("chosen",), ("rejected",)),
    "ranked": (("prompt", "instruction"), ("answers", "completions")),
    "rated": (("prompt",), ("response",)),
    "labelled": (("prompt",), ("completion",), ("label",)),
}
"""The columns that each dialect cannot do without; of a group, one is enough."""

OF_ANSWERS = ("ranked", "rated", "labelled")
"""The dialects that read answers with scores."""

ONE_ANSWER_A_ROW = ("rated", "labelled")
"""Those of which a row holds one answer: rows with the same prompt make the pairs."""


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


def _transcript(text: str, field: str) -> Turns:
    before, *parts = _HH_TURN.split(text)
    if before.strip() or not parts:
        raise RowError(rf"{field} must begin with '\n\nHuman:', got {shown(text)}")
    return tuple(
        Message(role="user" if name == "Human" else "assistant", content=content.strip())
        for name, content in zip(parts[::2], parts[1::2], strict=True)
    )


def _first(columns: Mapping[str, object], names: tuple[str, ...]) -> str:
    """Return the first of `names` that holds something, else the first of them."""
    return next((name for name in names if columns.get(name) is not None), names[0])


def _prompt_or_transcript(value: object, field: str) -> Turns:
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return read_prompt(value, field)
    return _transcript(read_text(value, field).rstrip().removesuffix("\n\nAssistant:"), field)


def _ranked_answers(value: object, field: str) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, list | tuple) or not value:
        raise RowError(f"{field} must be a list of answers, got {shown(value)}")
    if wrong := [place for place, answer in enumerate(value) if not isinstance(answer, Mapping)]:
        raise RowError(
            f"{field}[{wrong[0]}] must be an answer with its {_listed(_RANKS)}, got {shown(value[wrong[0]])}"
        )
    # Of one kind for the whole row: a rank and a score have nothing in common.
    rank = _first(value[0], _RANKS)
    text = _first(value[0], ("answer", "response"))
    read = []
    for place, answer in enumerate(value):
        score = number(answer.get(rank), f"{field}[{place}].{rank}")
        read.append((read_text(answer.get(text), f"{field}[{place}].{text}"), -score if rank == "rank" else score))
    return tuple(read)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
