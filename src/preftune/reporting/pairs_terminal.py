"""The data report at the terminal: in colour there, with markers in place of colour where it is piped.

Text of rows is never read as markup.
"""

from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preftune.reporting.inert import inert
from preftune.reporting.pair_report import Answer, Example, Lengths, PairReport

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = ".:-=+*#@"
_EXAMPLES, _SOURCES = 3, 8  # the page shows more
# Characters of a decoded text that are shown from its start, and from its end.
_HEAD, _TAIL = 240, 160


def print_pairs(report: PairReport, page: Path) -> None:
    """Print the report, the warnings last, where they are read, and where its `page` is, which shows more."""
    console = Console(highlight=False)
    if isinstance(console.file, TextIOWrapper):
        console.file.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no place for all text of rows
    console.print(_waterfall(report))
    console.print(_lengths(report, _BARS if console.encoding.startswith("utf") else _ASCII_BARS))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, fact in _facts(report):
        facts.add_row(Text(name), Text(fact))
    console.print(facts)
    console.print(Text("\nlongest pairs, prompt and longer answer", style="italic"))
    for pair in report.longest:
        console.print(Text(f"  {pair.tokens:>7,} tokens  {inert(pair.origin)}"), soft_wrap=True)
    _print_examples(console, report)
    for warning in report.warnings:
        console.print(Text(f"warning: {inert(warning)}", style="yellow"))
    console.print(Text(f"page: {inert(str(page))}"), soft_wrap=True)


def _waterfall(report: PairReport) -> Table:
    splits = [report.ledger["train"], report.ledger["held_out"]]
    table = _table("what became of every row", "", "train", "held-out")
    table.add_row("read", *(f"{split['read']:,}" for split in splits))
    if any(split["more"] for split in splits):
        table.add_row("+ pairs beyond one a row", *(f"{split['more']:,}" for split in splits))
    for reason in dict.fromkeys(reason for split in splits for reason in split["dropped"]):
        counts = [split["dropped"].get(reason) for split in splits]
        table.add_row(Text(f"- {reason}"), *("" if count is None else f"{-count:,}" for count in counts))
    table.add_row("= kept", *(f"{split['kept']:,}" for split in splits), style="bold")
    if any(split["truncated"] for split in splits):
        table.add_row("  of which cut", *(f"{split['truncated']:,}" for split in splits))
    return table


def _lengths(report: PairReport, heights: str) -> Table:
    table = _table("tokens of a train pair", "", "min", "median", "95 %", "max")
    table.add_column("pairs, from min to max", no_wrap=True)
    for name, lengths in (("prompt", report.prompt), ("chosen", report.chosen), ("rejected", report.rejected)):
        numbers = (lengths.least, lengths.median, lengths.p95, lengths.most)
        table.add_row(name, *(f"{number:,}" for number in numbers), bars(lengths, heights))
    return table


def bars(lengths: Lengths, heights: str = _BARS) -> str:
    """Return the histogram as one bar a bin: blank for none, and at least the lowest bar for one pair."""
    tallest = max(lengths.histogram)
    return "".join(heights[(count * len(heights) - 1) // tallest] if count else " " for count in lengths.histogram)


def _facts(report: PairReport) -> Iterator[tuple[str, str]]:
    bias, scores, shares = report.length_bias, report.scores, report.shares
    yield (
        "length",
        f"preferred answer longer in {bias.longer:,} pairs, shorter in {bias.shorter:,}, "
        f"equal in {bias.equal:,}; median difference {bias.median_difference:+,g} tokens",
    )
    if scores:
        quartiles = f"{scores.p25:g}, {scores.median:g}, {scores.p75:g}"
        yield "score", f"min {scores.least:g}, quartiles {quartiles}, max {scores.most:g}; {scores.zero:,} pairs of 0"
    if scores and scores.cut:
        cut = scores.cut
        yield "top_k", f"cut at a score of {cut.score:g}, of which {cut.kept:,} kept, {cut.dropped:,} dropped"
    if len(report.sources) > 1:
        for name, count in list(report.sources.items())[:_SOURCES]:
            yield "source", f"{inert(name)}: {count:,} pairs"
    if len(report.sources) > _SOURCES:
        yield "", f"and {len(report.sources) - _SOURCES:,} more sources"
    yield (
        "tokens",
        f"{_percent(shares.loss)} carry loss; {_percent(shares.second_prompt)} are a prompt's second copy",
    )
    yield "padding", f"{_percent(shares.padding)} of the places in batches of {shares.batch} pairs, in random order"


def _print_examples(console: Console, report: PairReport) -> None:
    marked = not console.is_terminal
    explained = "[[trained tokens]], {{end}} within" if marked else "trained tokens in green, their end inverted"
    shown = report.examples[:_EXAMPLES]
    console.print(Text(f"\n{len(shown)} pairs, decoded; {explained}", style="italic"))
    for example in shown:
        console.print(_example(example, marked=marked))


def _example(example: Example, *, marked: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("origin"), Text(inert(example.origin)))
    table.add_row(Text("prompt"), Text(_visible(example.prompt), style="dim"))
    for name, answer in (("chosen", example.chosen), ("rejected", example.rejected)):
        table.add_row(Text(name), _trained(answer, marked=marked))
    table.add_row(Text(""))
    return table


def _trained(answer: Answer, *, marked: bool) -> Text:
    text, end = _visible(answer.text), _visible(answer.end)
    if marked:
        return Text(f"[[{text}{{{{{end}}}}}]]" if end else f"[[{text}]] cut, no end token")
    shown = Text(text, style="green")
    return shown.append(end, style="green reverse") if end else shown.append(" cut, no end token", style="yellow")


def _visible(text: str) -> str:
    """Return `text` inert, its middle left out where it is long, with line ends to be seen."""
    safe = inert(text)
    left_out = len(safe) - _HEAD - _TAIL
    if left_out > 0:
        safe = f"{safe[:_HEAD]} ... {left_out:,} characters ... {safe[-_TAIL:]}"
    return safe.replace("\n", "↵\n").removesuffix("\n")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table
