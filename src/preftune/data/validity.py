"""Rows to pairs, none of which is wrong: any bad row stops the run, and the first five are shown."""

from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from preftune.data.layouts import columns_of, fitting, listed
from preftune.data.rows import Row, RowError
from preftune.data.scores import read_scores, score_columns
from preftune.data.settings import SAME_NAMES, ColumnSettings
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal

SHOWN = 5


def read_pairs(
    rows: Iterable[Row],
    dialect: str,
    score: str | list[str] | None,
    name: str,
    names: ColumnSettings = SAME_NAMES,
) -> list[PreferencePair]:
    """Read every row of the source called `name` with `dialect`, its columns being called as `names` says.

    Raises:
        Refusal: The columns do not fit, a row is wrong, or there is no row.
    """
    scores = score_columns(score)
    console = Console(stderr=True)
    taken = list(track(rows, f"Reading {name}", console=console, transient=True))
    if not taken:
        raise Refusal(f"{name} must hold at least one row, got none")
    read = fitting(taken, dialect, name, names)
    _refuse_missing_scores(columns_of(taken), scores, name)
    pairs, wrong = [], []
    for row in track(taken, f"Checking {name}", console=console, transient=True):
        try:
            pair = replace(read(row), extras=read_scores(row, scores))
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


def _refuse_missing_scores(seen: set[str], scores: list[str], name: str) -> None:
    if missing := [column for column in scores if column not in seen]:
        raise Refusal(
            f"data.score must name columns of {name}, got {', '.join(missing)}; its columns are {listed(seen)}, "
            "and data.score=null takes no score"
        )
