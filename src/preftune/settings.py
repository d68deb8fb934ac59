"""What every settings record has in common, and how a wrong setting is worded."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from preftune.refusals import SECRET, hidden
from preftune.spelling import did_you_mean as did_you_mean
from preftune.spelling import nearest as nearest


class Settings(BaseModel):
    """A record of settings. Each stage owns one; `config.Config` composes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a group of settings",
    "string": "text",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "pattern": "matching",
}


def shown(value: object) -> str:
    """Return `value` as it reads in YAML; text that reads as another type is marked, a secret is hidden."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and _reads_as_another_type(value):
        return f"{value!r} (text)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return SECRET.sub("(hidden)", hidden(repr(value)))


def condition(schema: Mapping[str, Any]) -> str:
    """Return what a JSON schema, as pydantic writes it, asks of a value: `a number at least 0`."""
    if "anyOf" in schema:
        return " or ".join(condition(option) for option in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(option) for option in schema["enum"])
    words = _KINDS[schema.get("type", "object")]
    if schema.get("type") == "array" and "enum" in schema.get("items", {}):
        words += f" of {', '.join(schema['items']['enum'])}"
    elif schema.get("type") == "array" and "type" in schema.get("items", {}):
        words += f" of {_KINDS[schema['items']['type']]}"
    if "minItems" in schema:
        words += f" with at least {schema['minItems']} entries"
    if "minLength" in schema:
        words += " that is not empty" if schema["minLength"] == 1 else f" of {schema['minLength']} characters"
    return " ".join([words, " and ".join(f"{_LIMITS[k]} {schema[k]}" for k in _LIMITS if k in schema)]).strip()


def _reads_as_another_type(text: str) -> bool:
    if text.lower() in ("true", "false", "null"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
