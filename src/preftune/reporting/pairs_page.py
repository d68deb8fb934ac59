"""The data report as one HTML page. All that a row or a file name brings passes through `safe`."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preftune.refusals import Refusal
from preftune.reporting.charts import Bin, Part, bar_row, histogram, legend, number, track
from preftune.reporting.page import page, safe
from preftune.reporting.pair_report import BINS, Answer, Example, LengthBias, Lengths, PairReport, Scores, Shares
from preftune.runs.files import write_text

_SOURCES = 12
# Characters of a decoded text that are shown folded, from its start and from its end, and unfolded.
_HEAD, _TAIL, _WHOLE = 420, 160, 20_000


def pairs_page(report: PairReport, title: str) -> str:
    """Return the whole report as one self-contained page without a script."""
    train, held_out = report.ledger["train"], report.ledger["held_out"]
    parts = [
        f"<h1>{safe(title)}</h1>",
        f'<p class="lede">What it trains on: {train["kept"]:,} pairs to train and {held_out["kept"]:,} held out, '
        f"from {safe(train['source'])}.</p>",
        *account(report),
        *_scores(report.scores),
        *_shares(report.shares),
        *_sources(report.sources),
        *_longest(report),
        *_examples(report),
    ]
    return page(f"Pairs of {title}", "\n".join(parts))


def account(report: PairReport) -> Iterator[str]:
    """Yield the sections that a run's own report has as well: warnings, what became of every row, lengths."""
    yield _warnings(report.warnings)
    yield from _ledger(report)
    yield from _lengths(report)
    yield from _bias(report.length_bias)


def write_page(report: PairReport, name: str) -> Path:
    """Write the page to `pairs/<name>.html` and return where.

    Raises:
        Refusal: There is no place to write it.
    """
    path = Path("pairs") / f"{name}.html"
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, pairs_page(report, name))
    except OSError as error:
        raise Refusal(
            f"the page of the pairs must go to a directory that can be written, got {path}: {error.strerror}; "
            "start from another directory"
        ) from error
    return path


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return '<p class="quiet">Nothing to warn of.</p>'
    return f'<ul class="warnings">{"".join(f"<li>{safe(warning)}</li>" for warning in warnings)}</ul>'


def _ledger(report: PairReport) -> Iterator[str]:
    yield "<h2>What became of every row</h2>"
    yield '<div class="cards">'
    for name, key in (("Train", "train"), ("Held out", "held_out")):
        yield f'<section class="card"><h3>{name}</h3>{waterfall(report.ledger[key])}</section>'
    yield "</div>"


def waterfall(split: Mapping[str, Any]) -> str:
    """Return what became of the rows of one split of ledger.json, as bars."""
    left, more = split["read"], split["more"]
    read = max(1, left, left + more)  # what the longest bar stands for
    rows = [bar_row("read", [Part("plain", left / read, f"{left:,} read")], f"{left:,}")]
    if more:
        parts = [Part("gap", min(left, left + more) / read, ""), Part("plain", abs(more) / read, f"{more:+,} pairs")]
        rows.append(bar_row("pairs beyond one a row", parts, f"{more:+,}".replace("-", "\u2212")))
        left += more
    for reason, count in split["dropped"].items():
        left -= count
        parts = [Part("gap", left / read, ""), Part("dropped", count / read, f"{count:,} dropped: {reason}")]
        rows.append(bar_row(reason, parts, f"\u2212{count:,}" if count else "0"))
    cut = split["truncated"]
    kept = [Part("chosen", left / read, f"{left:,} kept")]
    rows.append(bar_row("kept", kept, f"{left:,}", "total"))
    if cut:
        rows.append(bar_row("of which cut", [Part("rejected", cut / read, f"{cut:,} cut")], f"{cut:,}"))
    wrong = "".join(f'<li class="origin">{safe(fault)}</li>' for fault in split["wrong"])
    return _bars(rows) + (f'<p class="label">The first wrong rows</p><ul>{wrong}</ul>' if wrong else "")


def _bars(rows: list[str]) -> str:
    return f'<table class="bars"><tbody>{"".join(rows)}</tbody></table>'


def _lengths(report: PairReport) -> Iterator[str]:
    longest = max(report.chosen.most, report.rejected.most)
    yield "<h2>Lengths</h2>"
    yield '<p class="quiet">Tokens of the train pairs, with those of the chat template; both answers on one scale.</p>'
    yield '<div class="cards">'
    for name, lengths, colour, most in (
        ("Prompt", report.prompt, "plain", report.prompt.most),
        ("Chosen answer", report.chosen, "chosen", longest),
        ("Rejected answer", report.rejected, "rejected", longest),
    ):
        yield f'<section class="card"><h3>{name}</h3>'
        mark = (lengths.median + 0.5, f"median {lengths.median:,}")
        yield histogram(length_bins(lengths), colour, "tokens", mark, (0, most + 1))
        yield _numbers({"min": lengths.least, "median": lengths.median, "95 %": lengths.p95, "max": lengths.most})
        yield "</section>"
    yield "</div>"


def length_bins(lengths: Lengths) -> list[Bin]:
    """Return the bars of a histogram of lengths: one a length where the lengths are fewer than its bins."""
    least, across = lengths.least, lengths.most - lengths.least
    if across < BINS:
        counts = [lengths.histogram[min(BINS - 1, place * BINS // max(1, across))] for place in range(across + 1)]
        starts = list(range(least, lengths.most + 2))
    else:
        counts = list(lengths.histogram)
        starts = [least + math.ceil(place * across / BINS) for place in range(BINS)] + [lengths.most + 1]
    return [
        Bin(start, stop, count, f"{_range(start, stop - 1)} tokens: {count:,} pairs")
        for start, stop, count in zip(starts[:-1], starts[1:], counts, strict=True)
    ]


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _numbers(numbers: Mapping[str, float]) -> str:
    items = "".join(f"<span>{safe(name)} <b>{number(value)}</b></span>" for name, value in numbers.items())
    return f'<p class="numbers">{items}</p>'


def _bias(bias: LengthBias) -> Iterator[str]:
    pairs = bias.longer + bias.shorter + bias.equal
    parts = [
        Part("chosen", bias.longer / pairs, "the preferred answer is the longer one"),
        Part("faint", bias.equal / pairs, "both are equally long"),
        Part("rejected", bias.shorter / pairs, "the preferred answer is the shorter one"),
    ]
    yield "<h2>Length bias</h2>"
    yield '<section class="card">'
    yield track(parts, "stack") + legend(parts)
    yield (
        f"<p>Of {pairs:,} pairs the preferred answer is longer in {bias.longer:,}, shorter in {bias.shorter:,} and as "
        f"long in {bias.equal:,}; the median difference is {bias.median_difference:+,g} tokens.</p>"
    )
    if bias.quartiles:
        yield '<p class="label">Preferred answer is the longer one, by how much the two differ</p>'
        yield _bars(
            [
                bar_row(
                    f"{_range(part.least, part.most)} tokens",
                    [Part("chosen", part.longer / part.pairs, f"{part.longer:,} of {part.pairs:,} pairs")],
                    f"{100 * part.longer / part.pairs:.0f} % of {part.pairs:,}",
                )
                for part in bias.quartiles
            ]
        )
    yield "</section>"


def _scores(scores: Scores | None) -> Iterator[str]:
    if scores is None:
        return
    cut = scores.cut
    least = min(scores.least, cut.score) if cut else scores.least
    most = scores.most if scores.most > least else least + 1
    mark = (cut.score, f"cut of top_k at {cut.score:g}") if cut else (scores.median, f"median {scores.median:g}")
    yield "<h2>Scores</h2>"
    yield '<section class="card">'
    yield histogram(
        score_bins(scores), "chosen", "score of a train pair, in the units of data.score", mark, (least, most)
    )
    yield _numbers({"min": scores.least, "25 %": scores.p25, "median": scores.median, "75 %": scores.p75})
    yield _numbers({"max": scores.most, "pairs with a score of 0": scores.zero})
    if cut:
        yield (
            f"<p>data.top_k cut at a score of {cut.score:g}: of the pairs with just that score {cut.kept:,} were kept "
            f"and {cut.dropped:,} dropped.</p>"
        )
    yield "</section>"


def score_bins(scores: Scores) -> list[Bin]:
    """Return the bars of a histogram of scores."""
    width = (scores.most / BINS - scores.least / BINS) or 1 / BINS
    edges = [scores.least + width * place for place in range(BINS + 1)]
    return [
        Bin(start, stop, count, f"{start:.4g} to {stop:.4g}: {count:,} pairs")
        for start, stop, count in zip(edges[:-1], edges[1:], scores.histogram, strict=True)
    ]


def _shares(shares: Shares) -> Iterator[str]:
    tokens = 1 - shares.padding
    first = max(0.0, 1 - shares.loss - shares.second_prompt)
    parts = [
        Part("chosen", shares.loss * tokens, "answers, which carry loss"),
        Part("plain", first * tokens, "prompt"),
        Part("rejected", shares.second_prompt * tokens, "second copy of the prompt"),
        Part("faint", shares.padding, "padding"),
    ]
    yield "<h2>What is computed</h2>"
    yield f'<section class="card">{track(parts, "stack")}{legend(parts)}'
    yield (
        f"<p>Of all places in batches of {shares.batch:,} pairs in a random order. Without padding, "
        f"{100 * shares.loss:.0f} % of the tokens carry loss.</p></section>"
    )


def _sources(sources: Mapping[str, int]) -> Iterator[str]:
    pairs, shown = sum(sources.values()), list(sources.items())[:_SOURCES]
    yield "<h2>Sources</h2>"
    yield '<section class="card">'
    yield _bars(
        [
            bar_row(
                name, [Part("chosen", count / pairs, f"{count:,} pairs")], f"{count:,} ({100 * count / pairs:.0f} %)"
            )
            for name, count in shown
        ]
    )
    if len(sources) > len(shown):
        rest = pairs - sum(count for _, count in shown)
        yield f'<p class="quiet">And {rest:,} pairs from {len(sources) - len(shown):,} more.</p>'
    yield "</section>"


def _longest(report: PairReport) -> Iterator[str]:
    yield "<h2>Longest pairs</h2>"
    yield '<p class="quiet">Tokens of the prompt and the longer answer together.</p>'
    rows = "".join(
        f'<tr><th scope="row" class="origin">{safe(pair.origin)}</th><td class="number">{pair.tokens:,}</td></tr>'
        for pair in report.longest
    )
    yield f'<section class="card"><table><tbody>{rows}</tbody></table></section>'


def _examples(report: PairReport) -> Iterator[str]:
    yield f"<h2>{len(report.examples)} pairs, decoded</h2>"
    yield (
        '<p class="quiet">Drawn at random and decoded from their ids. The tinted tokens are trained on, with the end '
        "token inverted; the prompt is not.</p>"
    )
    yield from map(_example, report.examples)


def _example(example: Example) -> str:
    return (
        f'<article class="card example"><h3>{safe(example.origin)}</h3>'
        f'<div class="prompt"><p class="label">Prompt</p>{_folded(example.prompt, "", "")}</div>'
        f'<div class="answers"><div class="preferred"><p class="label">Chosen</p>{_answer(example.chosen)}</div>'
        f'<div class="other"><p class="label">Rejected</p>{_answer(example.rejected)}</div></div></article>'
    )


def _answer(answer: Answer) -> str:
    end = safe(answer.end.replace("\n", "\u21b5"))
    return _folded(
        answer.text,
        "trained",
        f'<span class="end">{end}</span>' if end else '<span class="cut">cut, no end token</span>',
    )


def _folded(text: str, kind: str, after: str) -> str:
    """Return `text`, folded where it is long; `after` is HTML that follows it."""

    def span(part: str) -> str:
        return f'<span class="{kind}">{safe(part)}</span>'

    left_out = len(text) - _HEAD - _TAIL
    if left_out <= 0:
        return f'<div class="text">{span(text)}{after}</div>'
    hidden = f'<span class="fold">{left_out:,} more characters</span>'
    part = f'<span class="part">{span(text[:_HEAD])} {hidden} {span(text[-_TAIL:])}{after}</span>'
    whole = span(text) if len(text) <= _WHOLE else _abridged(text, span(text[: _WHOLE - _TAIL]), span(text[-_TAIL:]))
    return f'<details class="text"><summary>{part}<span class="less fold">fold</span></summary>{whole}{after}</details>'


def _abridged(text: str, head: str, tail: str) -> str:
    return f'{head} <span class="cut">{len(text) - _WHOLE:,} characters left out of this page</span> {tail}'
