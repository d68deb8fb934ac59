"""What a person sees at the terminal: the plan, the table of start and end, samples side by side.

Text of models and data is never read as markup.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.inert import inert
from preftune.reporting.measures import ROWS
from preftune.runs.directory import Previous, RunDirectory

SAMPLES = 3


def print_plan(lines: Sequence[tuple[str, str]], directory: RunDirectory, tracked: str) -> None:
    """Print and keep the plan as two columns, with where the results go and how the run is tracked."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    plan = [*lines, ("results", str(directory.path)), ("tracked", tracked)]
    for name, value in plan:
        table.add_row(name, Text(inert(value)))
    directory.write_plan(plan)
    Console().print(table)


def print_complete(directory: Path, previous: Previous, samples: Sequence[Mapping[str, Any]]) -> None:
    """Print the results of a run that was complete before, and how to have it again."""
    Console().print(Text(f"{previous.sentence()}; remove its directory, or set run.dir, to train it again"))
    print_results(directory, previous.summary, samples)


def print_results(directory: Path, summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    """Print what training changed on held-out pairs, three samples, the verdict, and last the run's directory."""
    console = Console()
    console.print(_changes(summary))
    for sample in samples[:SAMPLES]:
        console.print(_side_by_side(sample))
    verdict = summary["verdict"]
    console.print(Text(f"{verdict['word']}: {verdict['sentence']}"))
    console.print(Text(str(directory)), soft_wrap=True)


def _changes(summary: Mapping[str, Any]) -> Table:
    table = Table(title="held-out pairs", title_justify="left")
    table.add_column("metric")
    for name in ("start", "end", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, name, unit in ROWS:
        before, after = summary["eval_start"][key], summary["eval"][key]
        if before is not None and after is not None:
            numbers = (f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
            table.add_row(f"{name}, {unit}" if unit else name, *numbers)
    if summary["length_sampled"] is not None:
        before, after = summary["length_sampled_reference"], summary["length_sampled"]
        table.add_row("length of samples, tokens", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    if summary["true_reward"]:
        was, now = summary["true_reward"]["reference"], summary["true_reward"]["policy"]
        reward = [f"{one['mean']:.3f} ± {one['stderr']:.3f}" for one in (was, now)]
        table.add_row("true reward", *reward, f"{now['mean'] - was['mean']:+.3f}")
    if summary["win_rate"]:
        wins = summary["win_rate"]
        end = f"{wins['mean']:.3f} ± {wins['stderr']:.3f}"
        table.add_row("win rate over the reference", "0.500", end, f"{wins['mean'] - 0.5:+.3f}")
    return table


def _side_by_side(sample: Mapping[str, Any]) -> Table:
    table = Table(title=Text(_shorten(sample["prompt"][-1]["content"], 200)), title_justify="left", expand=True)
    table.add_column("reference", ratio=1, overflow="fold")
    table.add_column("policy", ratio=1, overflow="fold")
    table.add_row(Text(_shorten(sample["reference"], 600)), Text(_shorten(sample["policy"], 600)))
    return table


def _shorten(text: str, limit: int) -> str:
    safe = inert(text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."
