"""ChatML that a template has rendered, read back to messages so that it is never rendered twice."""

import re

from preftune.data.rows import RowError, shown
from preftune.data.turns import RENDERED_MARKERS, ROLES
from preftune.pairs import Message

_TURN = re.compile(r"\s*<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_OPENED_ANSWER = re.compile(r"\s*<\|im_start\|>assistant\s*")
_CLOSED_ANSWER = re.compile(r"(.*)<\|im_end\|>\s*", re.DOTALL)


def unrendered(value: object, field: str) -> object:
    """Return rendered text as messages, or as plain text where it is an answer that only closes its turn.

    Whatever holds no template marker is returned as it is. A generation prompt at the end is dropped.

    Raises:
        RowError: The text holds template markers, yet is no whole ChatML.
    """
    if not isinstance(value, str) or _marker(value) is None:
        return value
    closed = _CLOSED_ANSWER.fullmatch(value)
    if closed and _marker(closed[1]) is None:
        return closed[1]
    messages, end = [], 0
    while turn := _TURN.match(value, end):
        messages.append(_message(turn[1], turn[2], field))
        end = turn.end()
    rest = value[end:]
    if not messages or (rest.strip() and not _OPENED_ANSWER.fullmatch(rest)):
        raise RowError(
            f"{field} must be plain text, messages or whole ChatML turns, got {_marker(value)!r} in {shown(rest)}"
        )
    return messages


def _message(name: str, content: str, field: str) -> Message:
    if name not in ROLES:
        raise RowError(f"{field} must be ChatML of {', '.join(ROLES)}, got a turn of {name!r}")
    if marker := _marker(content):
        raise RowError(f"{field} must be whole ChatML turns, got {marker!r} within {shown(content)}")
    return Message(role=ROLES[name], content=content)


def _marker(text: str) -> str | None:
    return next((marker for marker in RENDERED_MARKERS if marker in text), None)
