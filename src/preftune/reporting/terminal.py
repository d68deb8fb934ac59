"""What a person sees at the terminal: the plan, the table of start and end, samples side by side.

Text of models and data is never read as markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.verdict import Verdict

# Rows of the final table: the key of the `eval` map, what a person calls it, and its unit.
ROWS = (
    ("loss", "loss", ""),
    ("accuracy", "accuracy", ""),
    ("logratio_margin", "margin of log-ratios", "nats"),
    ("rewards/margins", "margin of rewards (times beta)", "nats"),
    ("chosen_logp_per_token", "log p of chosen, per token", "nats"),
    ("rejected_logp_per_token", "log p of rejected, per token", "nats"),
    ("kl_to_reference", "KL to the reference, per answer", "nats"),
)


def print_plan(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print the plan as two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(value))
    console.print(table)


def print_results(
    console: Console,
    start: Mapping[str, float | None],
    end: Mapping[str, float | None],
    true_reward: Mapping[str, Mapping[str, float]] | None,
    verdict: Verdict,
) -> None:
    """Print what training changed on held-out pairs: start, end, change."""
    table = Table(title="held-out pairs", title_justify="left")
    table.add_column("metric")
    for name in ("start", "end", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, name, unit in ROWS:
        before, after = start.get(key), end.get(key)
        if before is not None and after is not None:
            table.add_row(f"{name}, {unit}" if unit else name, *_numbers(before, after))
    if true_reward:
        was, now = true_reward["reference"], true_reward["policy"]
        reward = [f"{one['mean']:.3f} ± {one['stderr']:.3f}" for one in (was, now)]
        table.add_row("true reward", *reward, f"{now['mean'] - was['mean']:+.3f}")
    console.print(table)
    console.print(Text(f"{verdict.word}: {verdict.sentence}"))


def print_samples(console: Console, samples: Iterable[Mapping[str, Any]]) -> None:
    """Print answers of reference and policy side by side, under the prompt's last turn."""
    for sample in samples:
        table = Table(title=Text(_shorten(sample["prompt"][-1]["content"], 200)), title_justify="left", expand=True)
        table.add_column("reference", ratio=1, overflow="fold")
        table.add_column("policy", ratio=1, overflow="fold")
        table.add_row(Text(_shorten(sample["reference"], 600)), Text(_shorten(sample["policy"], 600)))
        console.print(table)


def _numbers(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
