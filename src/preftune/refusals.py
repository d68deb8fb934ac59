"""What a user can mend: raised with a sentence, shown without a traceback and without a secret."""

import os
import re

_TOKENS = (
    r"\bhf_[A-Za-z0-9]{8,}|\bsk-[\w-]{16,}|\bgh[opsu]_\w{16,}|\bgithub_pat_\w{16,}|\bwandb_v1_\w{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
SECRET = re.compile(rf"{_TOKENS}|\b[0-9a-f]{{40}}\b")  # 40 digits are a key of W&B, or a commit
SECRET_NAME = re.compile(
    r"(^|_)(api_?key|secret(_key)?|access_key|private_key|passw(or)?d|passphrase|credentials?)$|^((?!pad_).*_)?token$",
    re.IGNORECASE,
)
_SHORT = 8  # characters below which a value of the environment is not looked for: it would be found in any text
_TOKEN = re.compile(_TOKENS)


def hidden(text: str) -> str:
    """Return `text` without what is a secret by its form, or by the name of a variable that holds it."""
    for secret in secrets_of_environment():
        text = text.replace(secret, "(hidden)")
    return _TOKEN.sub("(hidden)", text)


def secrets_of_environment() -> list[str]:
    """Return the values of the variables whose names say that they are secret."""
    return [value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= _SHORT]


class _Said(Exception):
    def __str__(self) -> str:
        return hidden(super().__str__())


class Refusal(_Said):
    """Something the user gave cannot be used; the message says what was wrong and what to do."""


def refuse_all(faults: list[str]) -> None:
    """Raise one `Refusal` that lists every fault, or return where there is none."""
    if faults:
        raise Refusal("\n".join(faults))


class RunFailed(_Said):
    """A run cannot go on; the message says why, and is shown without a traceback."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; the message says where."""
