"""Which dialect reads the rows of a source: the one that is named, or the one that their first rows show."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from preftune.data.dialects import COLUMNS, DIALECTS, Dialect, messages
from preftune.data.rows import Row, RowError
from preftune.data.settings import SAME_NAMES, ColumnSettings
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal, refuse_all

FIRST = 100
"""Rows that `auto` looks at."""

_RULED_OUT_BY = {"implicit": ("prompt", "question", "input", "conversations")}  # prompts that it would not read


class Fit(NamedTuple):
    """How a dialect fares with the first rows: the pairs it reads, by row, or why it does not fit."""

    pairs: Mapping[int, PreferencePair]
    reason: str | None


def fitting(rows: Sequence[Row], dialect: str, name: str, names: ColumnSettings = SAME_NAMES) -> Dialect:
    """Return the reader for the rows of the source called `name`; with `auto`, say which.

    Args:
        rows: All of its rows.
        dialect: Name of a dialect, or `auto`.
        name: The source, as the user knows it.
        names: Other names of the columns; where any is given, the dialect is `messages`.

    Raises:
        Refusal: The columns do not fit the dialect or the names; with `auto`, no dialect fits, or two do and read
            otherwise.
    """
    if names.given():
        _refuse_absent(names, columns_of(rows), name)
        return partial(messages, names=names)
    if dialect == "auto":
        return DIALECTS[_recognised(rows[:FIRST], name)]
    seen = columns_of(rows)
    if missing(seen, dialect):
        raise Refusal(
            f"{name} must have the columns {_needed(dialect)} for data.dialect={dialect}, got {listed(seen)}; "
            f"choose the dialect that fits: {', '.join(DIALECTS)}"
        )
    return DIALECTS[dialect]


def columns_of(rows: Sequence[Row]) -> set[str]:
    """Return the columns that any of `rows` has."""
    return {column for row in rows for column in row.columns}


def listed(columns: set[str]) -> str:
    """Return columns for an error sentence."""
    return ", ".join(sorted(columns)) or "none"


def missing(seen: set[str], dialect: str) -> list[str]:
    """Return the columns that `dialect` needs and that are not there."""
    return [" or ".join(group) for group in COLUMNS[dialect] if not seen.intersection(group)]


def _refuse_absent(names: ColumnSettings, seen: set[str], name: str) -> None:
    needed = {group[0]: group[0] for group in COLUMNS["messages"]}
    faults = []
    for field, column in {**needed, **names.given()}.items():
        if column not in seen:
            got = "null" if field not in names.given() else repr(column)
            faults.append(
                f"data.columns.{field} must name a column of {name}, got {got}; its columns are {listed(seen)}"
            )
    refuse_all(faults)


def _recognised(rows: Sequence[Row], name: str) -> str:
    seen = columns_of(rows)
    fits = {dialect: _fit(rows, seen, dialect) for dialect in DIALECTS}
    fit = {dialect: found.pairs for dialect, found in fits.items() if found.reason is None}
    if not fit:
        raise Refusal(
            "\n  ".join(
                [
                    f"data.dialect=auto must recognise the layout of {name}, got the columns {listed(seen)}, "
                    "which no dialect fits; rename the columns, or name the dialect to see each fault:",
                    *(f"{dialect}: {found.reason}" for dialect, found in fits.items()),
                ]
            )
        )
    taken = max(fit, key=lambda dialect: len(fit[dialect]))  # of equals the first
    for other, pairs in fit.items():
        differ = [row for row, pair in pairs.items() if row in fit[taken] and fit[taken][row] != pair]
        if differ:
            unfit = "".join(f"\n  {dialect}: {found.reason}" for dialect, found in fits.items() if found.reason)
            raise Refusal(
                f"data.dialect=auto must fit one layout, got {name} with the columns {listed(seen)}, which {taken} "
                f"and {other} read differently, first at {rows[differ[0]].origin}; set data.dialect to one of them"
                + (f"; the others do not fit:{unfit}" if unfit else "")
            )
    _say(name, taken, [other for other in fit if other != taken])
    return taken


def _fit(rows: Sequence[Row], seen: set[str], dialect: str) -> Fit:
    if absent := missing(seen, dialect):
        return Fit({}, f"needs the columns {_needed(dialect)}; there is no {', no '.join(absent)}")
    if unread := seen.intersection(_RULED_OUT_BY.get(dialect, ())):
        return Fit({}, f"would not read the column {listed(unread)}")
    pairs, faults = {}, []
    for place, row in enumerate(rows):
        try:
            pairs[place] = DIALECTS[dialect](row)
        except RowError as fault:
            faults.append(f"{row.origin}: {fault}")
    # Half: single bad rows are told of later, each with its fault.
    if 2 * len(pairs) < len(rows):
        return Fit(pairs, f"reads {len(pairs)} of the first {len(rows)} rows; {faults[0]}")
    return Fit(pairs, None)


def _needed(dialect: str) -> str:
    return ", ".join(" or ".join(group) for group in COLUMNS[dialect])


def _say(name: str, taken: str, same: list[str]) -> None:
    also = f" (read the same way by {', '.join(same)})" if same else ""
    Console(stderr=True).print(escape(f"{name} is read as data.dialect={taken}{also}"), soft_wrap=True, highlight=False)
