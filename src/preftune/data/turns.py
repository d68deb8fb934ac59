"""What a column can hold, plain text or messages, read into turns."""

import re
from collections.abc import Mapping

from preftune.data.rows import RowError, shown
from preftune.pairs import Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
CLOSERS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""What chat templates end a turn with."""

_OPENED = re.compile(
    r"\s*(<\|(im_start|im_end|begin_of_text|start_header_id|eot_id|system|user|assistant)\|>|(<s>\s*)?\[INST\])"
)
_SERIALISED = re.compile(r"""(?:\[\s*)?\{\s*["'](?:role|from|content|value)["']\s*:""")
_ROLE = re.compile(r"""["'](?:role|from)["']\s*:\s*["'](?:system|user|human|assistant|gpt)["']""")
_AS_LIST = "give them as a list, which JSON lines and parquet hold and CSV does not"

Turns = tuple[Message, ...]


def read_text(value: object, field: str) -> str:
    """Return `value` where it is text that no chat template has rendered yet, and no messages written out as text."""
    if not isinstance(value, str):
        raise RowError(f"{field} must be text, got {shown(value)}")
    if _is_serialised(value):
        raise RowError(f"{field} must be text, got messages as text, {shown(value)}; {_AS_LIST}")
    if is_rendered(value):
        raise RowError(
            f"{field} must be text that no chat template has rendered, got {shown(value)}; "
            "data.dialect=openhermes reads ChatML, Llama-3, Mistral and Zephyr"
        )
    return value


def is_rendered(text: str) -> bool:
    """Tell whether `text` begins or ends as one that a chat template has rendered.

    `<s>...</s>` within a text is HTML, which strikes it out; around a whole text it is a template's.
    """
    if _OPENED.match(text):
        return True
    whole = text.strip()
    return whole.endswith(CLOSERS) and not (whole.endswith("</s>") and "<s>" in whole[1:])


def read_turns(value: object, field: str) -> Turns:
    """Return messages, `{role, content}` or `{from, value}`, as turns; one message is a dialogue of one."""
    if isinstance(value, Mapping):
        return (_turn(value, field),)
    if not isinstance(value, list | tuple):
        if isinstance(value, str) and _is_serialised(value):
            raise RowError(f"{field} must be a list of messages, got messages as text, {shown(value)}; {_AS_LIST}")
        raise RowError(f"{field} must be a list of messages, got {shown(value)}")
    if not value:
        raise RowError(f"{field} must hold at least one message, got none")
    return tuple(_turn(message, f"{field}[{place}]") for place, message in enumerate(value))


def read_prompt(value: object, field: str) -> Turns:
    """Return a prompt that is plain text, which is the user's only turn, or messages."""
    if isinstance(value, Mapping | list | tuple):
        return read_turns(value, field)
    return (Message(role="user", content=read_text(value, field)),)


def read_answer(value: object, field: str, prompt: Turns) -> str:
    """Return the text of an answer that is plain text, or messages whose last is the assistant's.

    Messages before the last must repeat the prompt, with or without its system turn.
    """
    if not isinstance(value, Mapping | list | tuple):
        return read_text(value, field)
    *before, last = read_turns(value, field)
    if last["role"] != "assistant":
        raise RowError(f"{field} must end with the assistant's turn, got {last['role']!r}")
    if before and tuple(before) not in (prompt, _without_system(prompt)):
        raise RowError(f"{field} must repeat the prompt before its answer, got {shown(before)}")
    return last["content"]


def with_system(value: object, turns: Turns) -> Turns:
    """Put a system column, which may be missing or empty, before `turns`."""
    if value is None or value == "":
        return turns
    system = Message(role="system", content=read_text(value, "system"))
    if turns and turns[0]["role"] == "system":
        if turns[0] != system:
            raise RowError(f"system must be the system turn that the prompt begins with, got {shown(value)}")
        return turns
    return (system, *turns)


def _turn(message: object, field: str) -> Message:
    if not isinstance(message, Mapping):
        raise RowError(f"{field} must be a message, got {shown(message)}")
    role, content = ("from", "value") if "from" in message else ("role", "content")
    name = message.get(role)
    if not isinstance(name, str) or name not in ROLES:
        raise RowError(f"{field}.{role} must be one of {', '.join(ROLES)}, got {shown(name)}")
    return Message(role=ROLES[name], content=read_text(message.get(content), f"{field}.{content}"))


def _is_serialised(text: str) -> bool:
    whole = text.strip()  # so that no pattern begins with white space, of which a text may have a million
    return whole.endswith(("}", "]")) and bool(_SERIALISED.match(whole)) and bool(_ROLE.search(whole))


def _without_system(prompt: Turns) -> Turns:
    return prompt[1:] if prompt and prompt[0]["role"] == "system" else prompt
