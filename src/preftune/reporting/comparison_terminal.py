"""A comparison at the terminal: as many columns as its width holds, the most telling first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.axes import label, short_names, shown
from preftune.reporting.comparison import Comparison, Row
from preftune.reporting.inert import inert
from preftune.reporting.measures import MEASURES, Measure
from preftune.reporting.numbers import duration
from preftune.reporting.recommendation import recommend

_ROWS = 30
_WIDEST = 30
# What is shown while there is room, after the objective: keys of measures, and of what is none.
_ORDER = (
    *("verdict", "kl", "accuracy", "chosen_change", "true_reward", "win_rate", "margin", "seeds", "length_change"),
    *("seconds", "rejected_change", "chosen_logp", "rejected_logp"),
)


def print_comparison(comparison: Comparison, files: Sequence[Path] = ()) -> None:
    """Print the ranked table, the jobs without a result, what to take, and where the `files` are."""
    console = Console(highlight=False)
    advised = recommend(comparison)
    if comparison.rows:
        console.print(_table(comparison, console.width, advised.rank))
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


class _Column(NamedTuple):
    """A column of inert text; `words` are read from the left, numbers from the right."""

    name: str
    cells: list[str]
    words: bool = True

    @property
    def width(self) -> int:
        """Places that it takes, with the two that part it from the next."""
        return 2 + min(_WIDEST, max(cell_len(cell) for cell in (self.name, *self.cells)))


def _table(comparison: Comparison, width: int, best: int | None) -> Table:
    rows = comparison.rows[:_ROWS]
    left = [_Column("", [str(row.rank) for row in rows]), *_axes(comparison, width // 2)]
    offered = {column.key: _measured(rows, column, comparison.measure) for column in comparison.measures()}
    offered["verdict"] = _Column("verdict", [inert(row.verdict) for row in rows])
    offered["seconds"] = _Column("time", [duration(row.seconds) for row in rows], words=False)
    if any(len(row.jobs) > 1 for row in rows):
        offered["seeds"] = _Column("seeds", [str(len(row.jobs)) for row in rows], words=False)
    room = width - sum(column.width for column in left)
    chosen = []
    for key in dict.fromkeys([comparison.measure, *_ORDER]):
        if key in offered and offered[key].width <= room:
            room -= offered[key].width
            chosen.append(offered[key])
    table = Table(
        title=Text(f"ranked by {MEASURES[comparison.measure].name}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for one in (*left, *chosen):
        side: Literal["left", "right"] = "left" if one.words else "right"
        table.add_column(Text(one.name), justify=side, no_wrap=not one.words, overflow="fold", max_width=_WIDEST)
    for place, row in enumerate(rows):
        cells = [Text(one.cells[place]) for one in (*left, *chosen)]
        table.add_row(*cells, style="bold" if row.rank == best else "")
    return table


def _measured(rows: Sequence[Row], measure: Measure, objective: str) -> _Column:
    """Return the column of a measure; only the objective keeps its standard error, to leave room for the others."""
    cells = [row.spelled(measure) for row in rows]
    short = cells if measure.key == objective else [cell.partition(" ±")[0] for cell in cells]
    return _Column(measure.short, short, words=False)


def _axes(comparison: Comparison, room: int) -> list[_Column]:
    """Return a column for each setting that differs, or one for all where they take more than `room` or are none."""
    rows = comparison.rows[:_ROWS]
    names = short_names(comparison.axes)
    apart = [
        _Column(inert(names[axis]), [inert(shown(row.axes[axis])) if axis in row.axes else "-" for row in rows])
        for axis in comparison.axes
    ]
    if apart and sum(column.width for column in apart) <= room:
        return apart
    return [_Column("job", [inert(row.label) for row in rows])]
