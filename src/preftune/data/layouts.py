"""Which dialect reads the rows of a source: the one that is named, or the one that their first rows show."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from preftune.data.dialects import COLUMNS, DIALECTS, OF_ANSWERS, Dialect, messages, rated
from preftune.data.plugins import plugin
from preftune.data.ranked import RankedAnswers
from preftune.data.rows import Row, RowError
from preftune.data.scores import required_columns
from preftune.data.settings import ColumnSettings, SourceSettings
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal, refuse_all

FIRST = 100
"""Rows that `auto` looks at."""

_RULED_OUT_BY = {"implicit": ("prompt", "question", "input", "conversations")}  # prompts that it would not read


class Fit(NamedTuple):
    """How a dialect fares with the first rows: what it reads, by row, or why it does not fit."""

    pairs: Mapping[int, PreferencePair | RankedAnswers]
    reason: str | None


def fitting(rows: Sequence[Row], settings: SourceSettings, name: str) -> tuple[str, Dialect]:
    """Return the name of the dialect that is taken, and the reader for the rows of a source; with `auto`, say which.

    Args:
        rows: Its first rows; of more than a hundred, `auto` looks at the first hundred.
        settings: Of the source. Where a column is given by another name, the dialect is `messages`; a dotted path
            names a function of the user's own.
        name: The source, as the user knows it.

    Raises:
        Refusal: The columns do not fit the dialect or the names; a setting would have no effect, or lacks; with `auto`,
            no dialect fits, or two do and read otherwise; or a dotted path names no dialect.
    """
    if settings.dialect is None:
        raise Refusal("data.dialect must name the layout of the rows, got null")
    if settings.columns.given():
        _refuse_absent(settings.columns, columns_of(rows), name)
        return "messages", partial(messages, names=settings.columns)
    if "." in settings.dialect:
        return settings.dialect, plugin(settings.dialect)
    if settings.dialect == "auto":
        taken = _recognised(rows[:FIRST], settings, name)
    else:
        taken = settings.dialect
        _refuse_unfit(taken, columns_of(rows), name)
    _refuse_numbers(taken, settings)
    return taken, _reader(taken, settings)


def refuse_missing_columns(seen: set[str], settings: SourceSettings, name: str) -> None:
    """Refuse `settings` that read a number from a column that is not among those `seen`."""
    faults = []
    for setting, columns in _by_setting(required_columns(settings)).items():
        if absent := [column for column in columns if column not in seen]:
            faults.append(
                f"{setting} must name columns of {name}, got {', '.join(absent)}; its columns are {listed(seen)}, "
                f"and {setting}=null reads none"
            )
    refuse_all(faults)


def columns_of(rows: Sequence[Row]) -> set[str]:
    """Return the columns that any of `rows` has."""
    return {column for row in rows for column in row.columns}


def listed(columns: set[str]) -> str:
    """Return columns for an error sentence."""
    return ", ".join(sorted(columns)) or "none"


def missing(seen: set[str], dialect: str) -> list[str]:
    """Return the columns that `dialect` needs and that are not there."""
    return [" or ".join(group) for group in COLUMNS[dialect] if not seen.intersection(group)]


def _reader(dialect: str, settings: SourceSettings) -> Dialect:
    if dialect == "rated" and isinstance(settings.score, str):
        return partial(rated, score=settings.score)
    return DIALECTS[dialect]


def _refuse_unfit(dialect: str, seen: set[str], name: str) -> None:
    if missing(seen, dialect):
        raise Refusal(
            f"{name} must have the columns {_needed(dialect)} for data.dialect={dialect}, got {listed(seen)}; "
            f"choose the dialect that fits: {', '.join(DIALECTS)}"
        )


def _refuse_numbers(dialect: str, settings: SourceSettings) -> None:
    """Refuse numbers of pairs where the rows hold answers, and a rating that is not named."""
    if dialect not in OF_ANSWERS:
        return
    where = f"where data.dialect is {dialect}"
    faults = []
    if dialect == "rated" and not isinstance(settings.score, str):
        got = "null" if settings.score is None else repr(settings.score)
        faults.append(f"data.score must name the one column of the rating {where}, got {got}")
    if dialect != "rated" and settings.score is not None:
        faults.append(f"data.score must be null {where}, whose answers bring their own, got {settings.score!r}")
    for field, column in settings.extras.given().items():
        faults.append(f"data.extras.{field} must be null {where}, whose rows hold answers and no pair, got {column!r}")
    refuse_all(faults)


def _by_setting(columns: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for setting, column in columns:
        found.setdefault(setting, []).append(column)
    return found


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


def _recognised(rows: Sequence[Row], settings: SourceSettings, name: str) -> str:
    seen = columns_of(rows)
    fits = {dialect: _fit(rows, seen, dialect, settings) for dialect in DIALECTS}
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


def _fit(rows: Sequence[Row], seen: set[str], dialect: str, settings: SourceSettings) -> Fit:
    if absent := missing(seen, dialect):
        return Fit({}, f"needs the columns {_needed(dialect)}; there is no {', no '.join(absent)}")
    if unread := seen.intersection(_RULED_OUT_BY.get(dialect, ())):
        return Fit({}, f"would not read the column {listed(unread)}")
    if dialect == "rated" and not isinstance(settings.score, str):
        return Fit({}, "needs data.score, the one column of the rating")
    pairs, faults, read = {}, [], _reader(dialect, settings)
    for place, row in enumerate(rows):
        try:
            pairs[place] = read(row)
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
