"""Text that a chat template has rendered, read back to messages so that it is never rendered twice."""

import re
from typing import NamedTuple

from preftune.data.rows import RowError, shown
from preftune.data.turns import CLOSERS, ROLES
from preftune.pairs import Message


class Template(NamedTuple):
    """How a family of chat templates writes a dialogue.

    Attributes:
        name: As errors call it.
        markers: What shows that a text is of this family.
        turn: One turn, from its beginning to its end; `role` and `content` are groups, or a group has the role's name.
        opening: What may stand before the first turn.
        opened: A generation prompt, which may stand after the last turn.
        trims: The template takes white space off the contents, or puts its own around them.
    """

    name: str
    markers: tuple[str, ...]
    turn: re.Pattern[str]
    opening: re.Pattern[str] = re.compile("")
    opened: re.Pattern[str] = re.compile("")
    trims: bool = False


TEMPLATES = (
    Template(
        "ChatML",
        ("<|im_start|>", "<|im_end|>"),
        re.compile(r"\s*<\|im_start\|>(?P<role>\w+)\n(?P<content>.*?)<\|im_end\|>", re.DOTALL),
        opened=re.compile(r"<\|im_start\|>assistant"),
    ),
    Template(
        "Llama-3",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
        re.compile(
            r"\s*<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n(?P<content>.*?)<\|eot_id\|>"
            r"(?:\s*<\|end_of_text\|>)?",
            re.DOTALL,
        ),
        opening=re.compile(r"\s*<\|begin_of_text\|>"),
        opened=re.compile(r"<\|start_header_id\|>assistant<\|end_header_id\|>"),
        trims=True,
    ),
    Template(
        "Mistral",
        ("[INST]", "[/INST]", "<<SYS>>"),
        re.compile(r"(?:\s*<s>)?\s*\[INST\](?P<user>.*?)\[/INST\]|(?P<assistant>.*?)</s>", re.DOTALL),
        trims=True,
    ),
    Template(
        "Zephyr",
        ("<|system|>", "<|user|>", "<|assistant|>"),
        re.compile(r"\s*<\|(?P<role>\w+)\|>\n(?P<content>.*?)</s>", re.DOTALL),
        opened=re.compile(r"<\|assistant\|>"),
    ),
)


def unrendered(value: object, field: str) -> object:
    """Return rendered text as messages, or as plain text where it is an answer that only closes its turn.

    Whatever holds no template marker is returned as it is. `<s>...</s>` around a whole text is taken off it, and a
    generation prompt at the end is dropped.

    Raises:
        RowError: The text holds template markers, yet is no whole dialogue of one template.
    """
    if not isinstance(value, str):
        return value
    answer = _closed_answer(value)
    if answer is not None:
        return answer
    template = _template(value)
    return value if template is None else _messages(value, field, template)


def _closed_answer(text: str) -> str | None:
    """Return an answer without the markers that close it, `<s>...</s>` around it too; None where it is no such text."""
    end, last = len(text), None
    while True:
        before = end
        while before and text[before - 1].isspace():
            before -= 1
        closer = next((closer for closer in CLOSERS if text.endswith(closer, 0, before)), None)
        if closer is None:
            break
        end, last = before - len(closer), last or closer
    answer = text[:end]
    if last == "</s>" and answer.lstrip().startswith("<s>"):
        answer = answer.lstrip().removeprefix("<s>")
    # Another "<s>" or "</s>" is HTML, in which "</s>" ends no turn.
    if last is None or "<s>" in answer or "</s>" in answer or _marker(answer) is not None:
        return None
    return answer if last == "<|im_end|>" else answer.strip()


def _messages(text: str, field: str, template: Template) -> list[Message]:
    opening = template.opening.match(text)
    messages, end = [], opening.end() if opening else 0
    while turn := template.turn.match(text, end):
        messages.append(_message(turn, field, template))
        end = turn.end()
    rest = text[end:].strip()
    if not messages or (rest and not template.opened.fullmatch(rest)):
        marker = next(marker for marker in template.markers if marker in text)
        raise RowError(
            f"{field} must be plain text, messages or whole {template.name} turns, "
            f"got {marker!r} in {shown(text[end:])}"
        )
    return messages


def _message(turn: re.Match[str], field: str, template: Template) -> Message:
    name = turn.groupdict().get("role") or turn.lastgroup or ""
    content = turn[turn.lastgroup or 0]
    if name not in ROLES:
        raise RowError(f"{field} must be {template.name} of {', '.join(ROLES)}, got a turn of {name!r}")
    if marker := _marker(content):
        raise RowError(f"{field} must be whole {template.name} turns, got {marker!r} within {shown(content)}")
    return Message(role=ROLES[name], content=content.strip() if template.trims else content)


def _template(text: str) -> Template | None:
    return next((template for template in TEMPLATES if any(marker in text for marker in template.markers)), None)


def _marker(text: str) -> str | None:
    return next((marker for template in TEMPLATES for marker in template.markers if marker in text), None)
