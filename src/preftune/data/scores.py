"""The strength of a preference, from the column or columns that hold it."""

import math

from preftune.data.rows import Row, RowError, shown


def score_columns(score: str | list[str] | None) -> list[str]:
    """Return the columns that `data.score` names."""
    if score is None:
        return []
    return [score] if isinstance(score, str) else score


def read_scores(row: Row, columns: list[str]) -> dict[str, float]:
    """Return the extras of a row: `score`; with two columns also `score_chosen` and `score_rejected`.

    Raises:
        RowError: A column is missing, or holds no finite number.
    """
    values = [_number(row.columns.get(column), column) for column in columns]
    if len(values) == 2:
        chosen, rejected = values
        return {"score": chosen - rejected, "score_chosen": chosen, "score_rejected": rejected}
    return {"score": values[0]} if values else {}


def _number(value: object, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"{column} must be a finite number, got {shown(value)}")
    return float(value)
