"""The cache at the terminal: what is kept, what of it is harmed, what was removed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.inert import inert
from preftune.runs.kept import Entry
from preftune.space import bytes_of, free


def print_entries(entries: Sequence[Entry], root: Path) -> None:
    """Print each entry, and what all take beside what is free."""
    console = Console(highlight=False)
    if entries:
        table = Table(box=None, pad_edge=False)
        for name in ("kind", "key"):
            table.add_column(name, no_wrap=True)
        table.add_column("made from", overflow="fold", ratio=1)
        for name in ("pairs", "size", "last used"):
            table.add_column(name, justify="right", no_wrap=True)
        for entry in entries:
            pairs = "" if entry.pairs is None else f"{entry.pairs:,}"
            made_from = "of a process that was killed" if entry.left else entry.of
            cells = (entry.kind, entry.key[:8], inert(made_from), pairs, bytes_of(entry.bytes), _ago(entry.days))
            table.add_row(*map(Text, cells))
        console.print(table)
    said = f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'} of {_total(entries)} in {root}"
    console.print(Text(f"{said}, where {bytes_of(free(root))} are free"), soft_wrap=True)


def print_faults(faults: Mapping[Path, Sequence[str]], looked_at: int) -> None:
    """Print what is not as it was sealed, and how many entries were read."""
    console = Console(highlight=False)
    for place, found in faults.items():
        console.print(Text(inert(f"{place}: {', '.join(found)}"), "yellow"), soft_wrap=True)
    console.print(f"{looked_at:,} read whole, {len(faults):,} of them harmed")


def print_removed(removed: Sequence[Entry], in_use: Sequence[Entry]) -> None:
    """Print what was removed, and what stays because a process uses it."""
    console = Console(highlight=False)
    for entry in in_use:
        console.print(Text(inert(f"{entry.place} is in use and stays"), "yellow"), soft_wrap=True)
    console.print(f"{len(removed):,} removed, {_total(removed)}")


def _total(entries: Sequence[Entry]) -> str:
    return bytes_of(sum(entry.bytes for entry in entries))


def _ago(days: float) -> str:
    if days < 1:
        return "today" if days * 24 >= 1 else "this hour"
    return f"{days:,.0f} day{'s' if days >= 1.5 else ''} ago"
