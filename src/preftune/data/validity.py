"""Rows to pairs, none of which is wrong: a bad row stops the run, or is dropped and counted where asked."""

import re
from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from preftune.data.layouts import columns_of, fitting, refuse_missing_columns
from preftune.data.ledger import SplitLedger
from preftune.data.ranked import RankedAnswers
from preftune.data.rows import Row, RowError
from preftune.data.scores import read_extras
from preftune.data.settings import DataSettings
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal

SHOWN = 5


def read_pairs(rows: Iterable[Row], settings: DataSettings, dialect: str, account: SplitLedger) -> list[PreferencePair]:
    """Read every row of a source with `dialect`, and account for those that are wrong.

    Raises:
        Refusal: The columns do not fit, there is no row, a row is wrong and `on_bad_row` is `stop`, or more rows
            are wrong than `max_dropped` allows.
    """
    console = Console(stderr=True)
    taken = list(track(rows, f"Reading {account.source}", console=console, transient=True))
    if not taken:
        raise Refusal(f"{account.source} must hold at least one row, got none")
    _, read = fitting(taken, settings.model_copy(update={"dialect": dialect}), account.source)
    refuse_missing_columns(columns_of(taken), settings, account.source)
    account.read = len(taken)
    pairs, wrong = [], []
    for row in track(taken, f"Checking {account.source}", console=console, transient=True):
        try:
            pair = read(row)
            if isinstance(pair, RankedAnswers):
                raise Refusal(f"data.dialect must read pairs, got {dialect}, which reads answers with scores")
            pair = replace(pair, extras={**pair.extras, **read_extras(row, settings)})
        except RowError as fault:
            wrong.append([f"{row.origin}: {fault}"])
            continue
        if found := [f"{row.origin}: {fault}" for fault in faults(pair)]:
            wrong.append(found)
        else:
            pairs.append(pair)
    if wrong:
        _settle_wrong_rows(wrong, settings, account)
    return pairs


def refuse_wrong_rows(wrong: list[list[str]], rows: int, remedy: str = "mend or remove them") -> None:
    """Refuse the wrong ones of `rows`, each with its faults; the first five faults are shown."""
    found = [fault for row in wrong for fault in row]
    if not found:
        return
    lines = [f"every row must be right, got {len(wrong)} wrong of {rows}; {remedy}:"]
    lines += found[:SHOWN]
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more")
    raise Refusal("\n  ".join(lines))


def _settle_wrong_rows(wrong: list[list[str]], settings: DataSettings, account: SplitLedger) -> None:
    if settings.on_bad_row == "stop":
        refuse_wrong_rows(wrong, account.read, "mend or remove them, or set data.on_bad_row=drop")
    share = len(wrong) / account.read
    if settings.max_dropped is not None and share > settings.max_dropped:
        remedy = f"more than the share of data.max_dropped={settings.max_dropped:g}, {share:.3g} of all"
        refuse_wrong_rows(wrong, account.read, remedy)
    for found in wrong:
        account.drop(f"wrong: {_condition(found[0])}", 1)
    account.wrong = [fault for row in wrong for fault in row][:SHOWN]


def _condition(fault: str) -> str:
    """Return what a fault asks for, without where and with what: `chosen must not be empty`."""
    asked = fault.split(": ", 1)[1].split(", got ")[0]
    return re.sub(r"\[\d+\]", "[]", asked)
