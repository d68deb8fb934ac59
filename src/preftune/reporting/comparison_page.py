"""A comparison as one HTML page: what to take, the table, the frontier, learning curves. No script."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from preftune.reporting.axes import label, written
from preftune.reporting.colours import style
from preftune.reporting.comparison import Comparison, Row
from preftune.reporting.curves import CURVES, DIVERGENCE, Frontier, Painted, learning_curves, named
from preftune.reporting.measures import MEASURES
from preftune.reporting.numbers import cell, duration
from preftune.reporting.page import page, safe
from preftune.reporting.recommendation import Recommendation, recommend
from preftune.reporting.run_files import finite
from preftune.reporting.scales import Axis, spans_decades
from preftune.reporting.series_chart import series_chart, series_legend

_KINDS = {"clear": "", "alone": "", "none": "none"}


def comparison_page(comparison: Comparison, lines: Sequence[Painted], drawn: Frontier, directory: Path) -> str:
    """Return the page.

    Args:
        comparison: What is compared.
        lines: Its rows with their colours.
        drawn: Its frontier.
        directory: Where the page will stand, from which it links to the reports of the runs.
    """
    advised = recommend(comparison)
    parts = [
        f"<h1>{safe(_title(comparison))}</h1>",
        f'<p class="lede">{safe(_lede(comparison))}</p>',
        _advice(advised),
        "<h2>Jobs</h2>",
        *_table(comparison, advised, directory),
        *_unranked(comparison, directory),
        *_frontier(drawn, lines),
        *_curves(lines),
        *_columns(comparison),
    ]
    return page(_title(comparison), "\n".join(parts), style([line.colour for line in lines]))


def _cost(row: Row) -> str:
    """Return for how long a row kept the device, with its unit."""
    return "-" if row.cost is None else f"{row.cost:,.1f} {row.unit}"


def _title(comparison: Comparison) -> str:
    return f"{'Sweep' if comparison.sweep else 'Comparison of'} {comparison.name}"


def _lede(comparison: Comparison) -> str:
    jobs = sum(len(row.jobs) for row in comparison.rows)
    several = len(comparison.rows) < jobs
    grouped = f" in {len(comparison.rows)} rows, each the mean over its seeds" if several else ""
    rest = f"; {len(comparison.unranked)} came to no result" if comparison.unranked else ""
    command = [written(part) for part in comparison.sweep.get("command") or () if isinstance(part, str)]
    seconds = finite(comparison.sweep.get("seconds"))
    took = f" It took {duration(seconds)}." if seconds is not None else ""
    typed = f" Started with {' '.join(command)}." if command else ""
    name = MEASURES[comparison.measure].name
    return f"{jobs} job{'' if jobs == 1 else 's'}{grouped}, ranked by {name}{rest}.{typed}{took}"


def _advice(advised: Recommendation) -> str:
    kind = _KINDS.get(advised.sure, "unsure")
    more = f'<p class="quiet">{safe(advised.advice)}</p>' if advised.advice else ""
    return f'<section class="card answer {kind}"><p class="said">{safe(advised.sentence)}</p>{more}</section>'


def _table(comparison: Comparison, advised: Recommendation, directory: Path) -> Iterator[str]:
    if not comparison.rows:
        yield '<p class="quiet">No job came to a result.</p>'
        return
    measures = comparison.measures()
    seeds = any(len(row.jobs) > 1 for row in comparison.rows)
    measured = [f'<th scope="col" title="{safe(one.means)}">{safe(one.name)}</th>' for one in measures]
    heads = [
        '<th scope="col" class="held">job</th>',
        *measured[:1],
        '<th scope="col">verdict</th>',
        *measured[1:],
        *(f'<th scope="col">{name}</th>' for name in [*(["seeds"] if seeds else []), "seconds", "cost", "report"]),
    ]
    yield '<section class="card"><div class="scroll"><table>'
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for row in comparison.rows:
        named = f"{row.rank}. {row.label}"
        values = [row.spelled(measure) for measure in measures]
        cells = [
            values[0],
            row.verdict,
            *values[1:],
            *([str(len(row.jobs))] * seeds),
            duration(row.seconds),
            _cost(row),
        ]
        links = " ".join(_link(job.run.path, directory, str(job.number)) for job in row.jobs)
        kind = ' class="best"' if row.rank == advised.rank else ""
        held = "held long" if len(named) > 24 else "held"
        drawn = "".join(f"<td>{cell(text)}</td>" for text in cells)
        yield f'<tr{kind}><th scope="row" class="{held}">{safe(named)}</th>{drawn}<td>{links}</td></tr>'
    yield "</tbody></table></div></section>"


def _link(run: Path, directory: Path, text: str) -> str:
    path = run / "report.html"
    if not path.is_file():
        return safe(text)
    return f'<a href="{safe(quote(os.path.relpath(path, directory)))}">{safe(text)}</a>'


def _unranked(comparison: Comparison, directory: Path) -> Iterator[str]:
    if not comparison.unranked:
        return
    yield "<h3>Without a result</h3>"
    yield '<ul class="warnings">'
    for job in comparison.unranked:
        link = f" ({_link(job.run.path, directory, job.directory)})" if job.directory else ""
        named = label(job.axes, list(job.axes)) or f"job {job.number}"
        yield f'<li><span class="word">{safe(named)}</span> {safe(job.told)}{link}</li>'
    yield "</ul>"


def _frontier(drawn: Frontier, lines: Sequence[Painted]) -> Iterator[str]:
    yield "<h2>Frontier</h2>"
    if not drawn.series:
        yield f'<p class="quiet">{safe(drawn.why)}</p>'
        return
    yield (
        '<p class="quiet">What each job gained for how far it went from the reference: a point per evaluation, joined '
        f"in the order of training, with its standard error ({safe(_errors(lines))}). Higher at the same divergence is "
        "better.</p>"
    )
    yield '<section class="card beside"><div>'
    yield f"{series_chart(drawn.series, DIVERGENCE, Axis(drawn.height), 'wide')}</div>{_legend(lines)}</section>"


def _errors(lines: Sequence[Painted]) -> str:
    kinds = {"over seeds" if len(line.row.jobs) > 1 else "over prompts" for line in lines}
    return " or ".join(sorted(kinds))


def _legend(lines: Sequence[Painted]) -> str:
    return series_legend(line.series() for line in named(lines))


def _curves(lines: Sequence[Painted]) -> Iterator[str]:
    drawn = [(title, learning_curves(lines, key)) for key, title in CURVES]
    drawn = [(title, series) for title, series in drawn if series]
    if not drawn:
        return
    yield "<h2>Learning curves</h2>"
    yield _legend(lines)
    yield '<div class="cards">'
    for title, series in drawn:
        heights = [point.y for one in series for point in one.points]
        log = title.startswith("Loss") and min(heights) > 0 and spans_decades(heights)
        yield f'<section class="card"><h3>{safe(title)}</h3>'
        yield f"{series_chart(series, Axis('optimizer steps'), Axis('', 'log' if log else 'linear'))}</section>"
    yield "</div>"


def _columns(comparison: Comparison) -> Iterator[str]:
    yield '<details class="more"><summary>What the columns are</summary><section class="card">'
    facts = [(measure.name, measure.means) for measure in comparison.measures()]
    facts += [
        ("±", "one standard error: over seeds where a row has several, else over prompts or held-out pairs"),
        ("seconds", "what one job measured of its stages, without start-up; the mean over its seeds"),
        ("cost", "seconds for which the jobs of the row kept the device, all seeds together"),
    ]
    rows = "".join(f'<tr><th scope="row">{safe(name)}</th><td>{safe(means)}</td></tr>' for name, means in facts)
    yield f'<table class="facts"><tbody>{rows}</tbody></table></section></details>'
