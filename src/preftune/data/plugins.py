"""A dialect of the user's own, by dotted path."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache, partial

from preftune.data.rows import Row, RowError, refuse_text_that_cannot_be_read, shown
from preftune.data.turns import read_text, read_turns
from preftune.pairs import PreferencePair
from preftune.plugins import FAULTS, function_at
from preftune.refusals import Refusal


def plugin(path: str) -> Callable[[Row], PreferencePair]:
    """Return the dialect that `path`, `module.function`, names; it can be pickled.

    The function is given one `preftune.data.rows.Row`, which is `origin` and `columns`, its values by column, and
    returns one `preftune.pairs.PreferencePair`: `prompt` as turns of `{role, content}`, `chosen` and `rejected` as
    text, and in `extras` finite numbers by name, which are kept. The pair's origin is the row's, whatever it gives.
    For a row that it cannot read it raises `preftune.data.rows.RowError`, `<field> must be <condition>, got <value>`.
    It may run in another process, and must return the same pair for the same row.

    Raises:
        Refusal: The module cannot be imported, or names no function of one row.
    """
    _function(path)
    return partial(_read, path=path)


@cache
def _function(path: str) -> Callable[[Row], object]:
    function = function_at(path, "data.dialect")
    _refuse_other_arguments(function, path)
    return function


def _refuse_other_arguments(function: Callable[..., object], path: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some written in C tell none
        return
    try:
        signature.bind(None)
    except TypeError as fault:
        raise Refusal(f"data.dialect must take one row as its only argument, got {path}{signature}: {fault}") from fault


def _read(row: Row, path: str) -> PreferencePair:
    try:
        pair = _function(path)(row)
    except RowError:
        raise
    except FAULTS as fault:
        raise RowError(f"row must be read by {path}, got {type(fault).__name__}: {fault}") from fault
    if not isinstance(pair, PreferencePair):
        raise RowError(f"row must be made a PreferencePair by {path}, got a value of type {type(pair).__name__}")
    try:
        refuse_text_that_cannot_be_read({"pair": [list(pair.prompt), pair.chosen, pair.rejected]}, row.origin)
    except Refusal as fault:
        raise RowError(str(fault).removeprefix(f"{row.origin}: ")) from fault
    return PreferencePair(
        read_turns(pair.prompt, "prompt"),
        read_text(pair.chosen, "chosen"),
        read_text(pair.rejected, "rejected"),
        row.origin,
        _numbers(pair.extras),
    )


def _numbers(extras: object) -> dict[str, float]:
    if not isinstance(extras, Mapping):
        raise RowError(f"extras must be numbers by name, got {shown(extras)}")
    for name, value in extras.items():
        finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(name, str) or not finite:
            raise RowError(f"extras must be finite numbers by name, got {shown({name: value})}")
    return {name: float(value) for name, value in extras.items()}
