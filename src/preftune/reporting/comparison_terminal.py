"""A comparison at the terminal: as many columns as its width holds, the most telling first."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.axes import label, short_names, written
from preftune.reporting.comparison import Comparison
from preftune.reporting.comparison_page import columns, duration
from preftune.reporting.inert import inert
from preftune.reporting.measures import MEASURES
from preftune.reporting.recommendation import recommend, spelled

_ROWS = 30
_WIDEST = 30
# What is shown while there is room, after the objective: keys of measures, and of what is none.
_ORDER = (
    *("verdict", "kl", "accuracy", "chosen_change", "true_reward", "win_rate", "margin", "length_change", "seconds"),
    *("rejected_change", "chosen_logp", "rejected_logp"),
)


def print_comparison(comparison: Comparison, files: Sequence[Path] = ()) -> None:
    """Print the ranked table, the jobs without a result, what to take, and where the `files` are."""
    console = Console(highlight=False)
    advised = recommend(comparison)
    if comparison.rows:
        console.print(_table(comparison, console.width, advised.label))
        console.print()
    if len(comparison.rows) > _ROWS:
        console.print(Text(f"{len(comparison.rows) - _ROWS} more stand in the files"))
    for job in comparison.unranked:
        axes = label(job.axes, list(job.axes)) or f"job {job.number}"
        console.print(Text(inert(f"{axes}  {job.told}"), style="yellow"))
        if job.directory:
            console.print(Text(inert(f"  {job.directory}")), soft_wrap=True)
    console.print(Text(inert(" ".join([advised.sentence, advised.advice]).strip()), style="bold"))
    for path in files:
        console.print(Text(inert(str(path))), soft_wrap=True)


def _table(comparison: Comparison, width: int, best: str | None) -> Table:
    rows = comparison.rows[:_ROWS]
    left = [("", [str(row.rank) for row in rows]), *_axes(comparison)]
    known = {measure.key: measure for measure in columns(comparison)}
    offered = [comparison.measure, *(key for key in _ORDER if key != comparison.measure)]
    candidates = {
        key: (known[key].short, [spelled(row.values[key], known[key].form) for row in rows])
        for key in offered
        if key in known
    }
    # Only the objective keeps its standard error: the others say more by being there.
    for key, (name, cells) in candidates.items():
        if key != comparison.measure:
            candidates[key] = (name, [cell.partition(" ±")[0] for cell in cells])
    candidates["verdict"] = ("verdict", [row.verdict for row in rows])
    candidates["seconds"] = ("time", [duration(row.seconds) for row in rows])
    room = width - sum(map(_width, left))
    shown = []
    for key in offered:
        if key in candidates and (wide := _width(candidates[key])) <= room:
            room -= wide
            shown.append(candidates[key])
    if any(len(row.jobs) > 1 for row in rows) and room >= 7:
        shown.append(("seeds", [str(len(row.jobs)) for row in rows]))
    return _drawn(left, shown, [row.label == best for row in rows], f"ranked by {MEASURES[comparison.measure].name}")


def _axes(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return a column for each setting that differs, or one for all where they are many or there is none."""
    rows = comparison.rows[:_ROWS]
    names = short_names(comparison.axes)
    if not 1 <= len(names) <= 3:
        return [("job", [inert(row.label) for row in rows])]
    return [
        (names[axis], [inert(written(row.axes[axis])) if axis in row.axes else "-" for row in rows])
        for axis in comparison.axes
    ]


def _width(column: tuple[str, list[str]]) -> int:
    return 2 + min(_WIDEST, max(cell_len(cell) for cell in (column[0], *column[1])))


def _drawn(
    left: list[tuple[str, list[str]]], right: list[tuple[str, list[str]]], best: list[bool], title: str
) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name, _ in left:
        table.add_column(Text(name), overflow="fold", max_width=_WIDEST)
    for name, _ in right:
        words = name == "verdict"
        table.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, max_width=_WIDEST)
    for place, first in enumerate(best):
        cells = [Text(cells[place]) for _, cells in (*left, *right)]
        table.add_row(*cells, style="bold" if first else "")
    return table
