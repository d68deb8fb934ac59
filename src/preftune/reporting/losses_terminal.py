"""Losses at the terminal: a list of all, or one with its numbers along the margin."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.losses.traits import traits_of
from preftune.reporting.inert import inert
from preftune.reporting.loss_descriptions import Description, curve, parameters_of

_MARGINS = (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100)


def print_losses(losses: Sequence[Description]) -> None:
    """Print name, parameters, paper and first line of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for loss in losses:
        facts = [*_parameters(loss), *([loss.paper()] if loss.paper() else [])]
        table.add_row(Text(loss.name), Text("  ".join(facts), style="cyan"))
        table.add_row("", Text(inert(loss.summary)))
    Console(highlight=False).print(table)


def print_loss(loss: Description) -> None:
    """Print what one loss says of itself, and what a pair costs along the margin."""
    console = Console(highlight=False)
    console.print(Text(inert(f"{loss.name}: {loss.summary}"), style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for formula in loss.formulas:
        table.add_row("formula", Text(inert(formula)))
    for parameter, (name, said) in zip(_parameters(loss), loss.arguments.items(), strict=True):
        table.add_row(Text(parameter), Text(inert(said) or f"{name}, of which its docstring says nothing"))
    for name, said in (("returns", loss.returns), ("source", loss.source)):
        if said:
            table.add_row(name, Text(inert(said)))
    console.print(table)
    numbers = Table()
    for name in ("margin, nats", "cost", "slope"):
        numbers.add_column(name, justify="right")
    for margin, cost, slope in curve(loss, _MARGINS):
        numbers.add_row(f"{margin:+g}", f"{cost:.4f}", f"{round(slope, 4) + 0.0:+.4f}")  # no -0.0000
    console.print(numbers)


def print_passed(loss: Description) -> None:
    """Say what a loss that passed the battery was found to do, and what it declares not to."""
    traits = traits_of(loss.function)
    held = ["one finite cost a pair", "gradient to the policy alone", "the same when called again"]
    held += ["a pair's cost its own" if traits.per_pair else "declared: a pair's cost depends on its batch"]
    held += ["halves as the whole" if traits.accumulates else "declared: halves differ from the whole"]
    Console(highlight=False).print(Text(f"{inert(loss.name)} passes: {'; '.join(held)}"))


def print_place(page: Path) -> None:
    """Say where the page is."""
    Console(highlight=False).print(Text(f"page: {inert(str(page))}"), soft_wrap=True)


def _parameters(loss: Description) -> list[str]:
    given = loss.parameters
    return [f"{name}={given[name]}" if name in given else name for name in parameters_of(loss.function)]
