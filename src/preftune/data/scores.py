"""The numbers that travel with a pair: the strength of the preference, its probability, its weight."""

import math
from typing import TypeGuard

from preftune.data.rows import Row, RowError, shown
from preftune.data.settings import ExtraSettings, SourceSettings

_LONGEST_NUMBER = 64  # characters; longer text is no number, and costs more than linear time to read as one


def required_columns(settings: SourceSettings) -> list[tuple[str, str]]:
    """Return the setting and the column of each number that `settings` read."""
    columns = [("data.score", column) for column in score_columns(settings.score)]
    return columns + [(f"data.extras.{name}", column) for name, column in settings.extras.given().items()]


def score_columns(score: str | list[str] | None) -> list[str]:
    """Return the columns that `data.score` names."""
    if score is None:
        return []
    return [score] if isinstance(score, str) else score


def read_extras(row: Row, settings: SourceSettings) -> dict[str, float]:
    """Return the extras of a row.

    They are `score`, and with two columns also `score_chosen` and `score_rejected`; `probability` and `weight`; and
    with votes, `votes_chosen`, `votes_rejected` and the `probability` that they give.

    Raises:
        RowError: A column is missing, or holds no finite number of its range.
    """
    return {**_scores(row, score_columns(settings.score)), **_strength(row, settings.extras)}


def number(value: object, field: str) -> float:
    """Return a finite number, which may be given as text, as CSV does."""
    try:
        found = float(value) if _may_be_number(value) else math.nan
    except (OverflowError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise RowError(f"{field} must be a finite number, got {shown(value)}")
    return found


def _may_be_number(value: object) -> TypeGuard[int | float | str]:
    if isinstance(value, str):
        return len(value) <= _LONGEST_NUMBER and value.isascii() and "_" not in value
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scores(row: Row, columns: list[str]) -> dict[str, float]:
    values = [number(row.columns.get(column), column) for column in columns]
    if len(values) == 2:
        chosen, rejected = values
        return {"score": chosen - rejected, "score_chosen": chosen, "score_rejected": rejected}
    return {"score": values[0]} if values else {}


def _strength(row: Row, columns: ExtraSettings) -> dict[str, float]:
    extras = {name: _at_least_0(row, column) for name, column in columns.given().items()}
    if extras.get("probability", 0) > 1:
        value = row.columns.get(columns.probability or "")
        raise RowError(f"{columns.probability} must be a number from 0 to 1, got {shown(value)}")
    if "votes_chosen" in extras:
        votes = extras["votes_chosen"] + extras["votes_rejected"]
        if votes == 0:
            raise RowError(f"{columns.votes_chosen} and {columns.votes_rejected} must hold a vote, got 0 and 0")
        extras["probability"] = extras["votes_chosen"] / votes
    return extras


def _at_least_0(row: Row, column: str) -> float:
    value = row.columns.get(column)
    if (found := number(value, column)) < 0:
        raise RowError(f"{column} must be a number of at least 0, got {shown(value)}")
    return found
