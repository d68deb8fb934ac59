"""Rows to pairs, none of which is wrong: any bad row stops the run, and the first five are shown."""

from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from preftune.data.dialects import COLUMNS, DIALECTS
from preftune.data.rows import Row, RowError
from preftune.data.scores import read_scores, score_columns
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal

SHOWN = 5


def read_pairs(rows: Iterable[Row], dialect: str, score: str | list[str] | None, name: str) -> list[PreferencePair]:
    """Read every row of the source called `name` with `dialect`.

    Raises:
        Refusal: The columns do not fit, a row is wrong, or there is no row.
    """
    scores = score_columns(score)
    console = Console(stderr=True)
    taken = list(track(rows, f"Reading {name}", console=console, transient=True))
    if not taken:
        raise Refusal(f"{name} must hold at least one row, got none")
    _refuse_other_columns({column for row in taken for column in row.columns}, dialect, scores, name)
    pairs, wrong = [], []
    for row in track(taken, f"Checking {name}", console=console, transient=True):
        try:
            pair = replace(DIALECTS[dialect](row), extras=read_scores(row, scores))
        except RowError as fault:
            wrong.append([f"{row.origin}: {fault}"])
            continue
        pairs.append(pair)
        wrong.append([f"{row.origin}: {fault}" for fault in faults(pair)])
    refuse_wrong_rows(wrong)
    return pairs


def refuse_wrong_rows(faults_by_row: list[list[str]]) -> None:
    """Refuse rows of which any has a fault; the lists of right rows are empty."""
    found = [fault for row in faults_by_row for fault in row]
    if not found:
        return
    bad = sum(1 for row in faults_by_row if row)
    lines = [f"every row must be right, got {bad} wrong of {len(faults_by_row)}; mend or remove them:"]
    lines += found[:SHOWN]
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more")
    raise Refusal("\n  ".join(lines))


def _refuse_other_columns(seen: set[str], dialect: str, scores: list[str], name: str) -> None:
    columns = ", ".join(sorted(seen)) or "none"
    if not all(seen.intersection(group) for group in COLUMNS[dialect]):
        expected = ", ".join(" or ".join(group) for group in COLUMNS[dialect])
        raise Refusal(
            f"{name} must have the columns {expected} for data.dialect={dialect}, got {columns}; "
            f"choose the dialect that fits: {', '.join(DIALECTS)}"
        )
    if missing := [column for column in scores if column not in seen]:
        raise Refusal(
            f"data.score must name columns of {name}, got {', '.join(missing)}; its columns are {columns}, "
            "and data.score=null takes no score"
        )
