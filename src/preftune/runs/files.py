"""Files that are whole or absent: each is written beside its place, synced, and renamed into it."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftune.refusals import Refusal


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` as indented JSON; nan and inf become strings, which JSON has no numbers for."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    replace(path, _encode(text))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`, or None where there is no such file.

    Raises:
        Refusal: The file holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Refusal(f"{path} must hold JSON, got {error}; put it back, or remove it") from error
    if not isinstance(value, dict):
        raise Refusal(f"{path} must hold an object, got {value!r}; put it back, or remove it")
    return value


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` at once: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def line(value: Mapping[str, object]) -> bytes:
    """Return `value` as one line of JSON, as bytes."""
    return _encode(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n")


def _encode(text: str) -> bytes:
    # A lone surrogate, which no UTF-8 can hold, becomes \udXXX: what JSON itself writes for it.
    return text.encode("utf-8", "backslashreplace")


def _finite(value: object) -> object:
    """Return `value` with nan, inf and -inf as strings, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
