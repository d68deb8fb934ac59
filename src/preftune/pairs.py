"""The records between all sources and all trainers: a preference pair, what makes one invalid, a labelled answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with the answer that was preferred and the one that was not.

    Attributes:
        prompt: Turns up to and including the user's last; an optional system turn comes first.
        chosen: Text of the preferred answer, as the assistant's next turn.
        rejected: Text of the other answer.
        origin: Where the row came from, for errors and for metrics by source: `file:row` or `id[split]:row`.
        extras: Numbers that travel with the pair, for instance `score_chosen`, `score_rejected`, `score`.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    origin: str
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """A prompt with one answer, which is one to make more likely (`desirable`) or less; fields as of a pair."""

    prompt: tuple[Message, ...]
    text: str
    desirable: bool
    origin: str


def faults(pair: PreferencePair) -> Iterator[str]:
    """Yield each reason why `pair` cannot be trained on, as `<field> must be <condition>, got <value>`."""
    yield from _prompt_faults(pair.prompt)
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer.strip():
            yield f"{name} must not be empty, got {answer!r}"
    if pair.chosen == pair.rejected:
        yield f"chosen must differ from rejected, got {pair.chosen[:60]!r} for both"


def _prompt_faults(prompt: tuple[Message, ...]) -> Iterator[str]:
    if not prompt:
        yield "prompt must hold at least one turn, got none"
        return
    if prompt[-1]["role"] != "user":
        yield f"prompt must end with the user's turn, got {prompt[-1]['role']!r}"
    for place, message in enumerate(prompt):
        if message["role"] == "system" and place > 0:
            yield f"prompt[{place}] must not be a system turn, which may only come first"
        if not message["content"].strip():
            yield f"prompt[{place}].content must not be empty, got {message['content']!r}"
