"""Numbers as a person reads them, in a table, in a sentence and on a page."""

from preftune.reporting.page import safe


def spelled(mean: float | None, stderr: float | None, form: str) -> str:
    """Return a number in the form of a format string, with its standard error where that is known; a dash for None."""
    if mean is None:
        return "-"
    return f"{mean:{form}}" + ("" if stderr is None else f" ± {stderr:{form.removeprefix('+')}}")


def duration(seconds: float | None) -> str:
    """Return seconds in the unit that a person would take; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def cell(text: str) -> str:
    """Return the inside of a cell as HTML; a standard error stands below its number, which keeps a table narrow."""
    value, between, error = text.partition(" ± ")
    return f"{safe(value)}<br><small>± {safe(error)}</small>" if between else safe(text)
