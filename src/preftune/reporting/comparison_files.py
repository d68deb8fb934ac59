"""The files of a comparison: CSV, JSON, PNG, and one HTML page."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preftune.refusals import Refusal
from preftune.reporting.axes import written
from preftune.reporting.comparison import Comparison, Job, Row, Spread
from preftune.reporting.comparison_page import comparison_page
from preftune.reporting.curves import Frontier, frontier, painted
from preftune.reporting.frontier import write_frontier
from preftune.reporting.inert import inert
from preftune.reporting.measures import MEASURES
from preftune.reporting.recommendation import recommend
from preftune.runs.files import write_json, write_text


def write_comparison(directory: Path, comparison: Comparison) -> list[Path]:
    """Write the files and return where they are.

    They are `sweep.csv` for a sweep and `comparison.csv` for other runs, `comparison.json`, `report.html`, and
    `frontier.png` where answers were sampled; an older frontier is removed where they were not.

    Raises:
        Refusal: They cannot be written there.
    """
    lines = painted(comparison)
    shown = frontier(lines)
    table = directory / ("sweep.csv" if comparison.sweep else "comparison.csv")
    data, report, picture = (directory / name for name in ("comparison.json", "report.html", "frontier.png"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(table, comparison_csv(comparison))
        write_json(data, comparison_json(comparison, shown))
        write_text(report, comparison_page(comparison, lines, shown, directory))
        if shown.series:
            write_frontier(picture, shown, lines, comparison.name)
        else:
            picture.unlink(missing_ok=True)
    except OSError as error:
        raise Refusal(
            f"the comparison must go to a directory that can be written, got {directory}: {error.strerror}"
        ) from error
    return [table, data, *([picture] if shown.series else []), report]


def comparison_csv(comparison: Comparison) -> str:
    """Return the ranked rows, then the jobs without a result, as CSV with every measure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = [name for key in MEASURES for name in (key, f"{key}_stderr")]
    writer.writerow(["rank", *comparison.axes, "seeds", "objective", *measures, *_LAST])
    for row in comparison.rows:
        values = [value for key in MEASURES for value in _both(row.values[key])]
        axes = [written(row.axes[axis]) if axis in row.axes else "" for axis in comparison.axes]
        objective = _both(row.values[comparison.measure])[0]
        directories = ";".join(job.directory for job in row.jobs)
        last = [row.verdict, "complete", "", row.seconds, row.cost, row.unit, directories]
        writer.writerow(_cells([row.rank, *axes, len(row.jobs), objective, *values, *last]))
    for job in comparison.unranked:
        axes = [written(job.axes[axis]) if axis in job.axes else "" for axis in comparison.axes]
        last = ["", job.state, job.reason, job.seconds(), None, "", job.directory]
        writer.writerow(_cells([None, *axes, None, None, *[None] * len(measures), *last]))
    return text.getvalue()


# A spreadsheet takes text that begins so for a formula; a number, which may begin with a sign, is none.
_FORMULA = re.compile(r"[=@\t]|[+-](?!\d*\.?\d*(e[+-]?\d+)?$)")
_LAST = ("verdict", "state", "reason", "seconds", "cost", "cost_unit", "directories")


def _both(spread: Spread | None) -> tuple[float | None, float | None]:
    return (None, None) if spread is None else (spread.mean, spread.stderr)


def _cells(values: list[Any]) -> Iterator[Any]:
    for value in values:
        text = inert(value) if isinstance(value, str) else value
        yield f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def comparison_json(comparison: Comparison, shown: Frontier) -> dict[str, Any]:
    """Return the comparison as plain maps."""
    return {
        "name": comparison.name,
        "objective": comparison.objective,
        "axes": list(comparison.axes),
        "recommendation": recommend(comparison)._asdict(),
        "rows": [_row(row) for row in comparison.rows],
        "unranked": [_job(job) for job in comparison.unranked],
        "frontier": {
            "height": shown.height,
            "why": shown.why,
            "lines": [
                {
                    "label": series.name,
                    "points": [
                        {"kl": point.x, "kl_stderr": point.x_error, "height": point.y, "height_stderr": point.y_error}
                        for point in series.points
                    ],
                }
                for series in shown.series
            ],
        },
    }


def _row(row: Row) -> dict[str, Any]:
    values = {
        key: None if spread is None else {"mean": spread.mean, "stderr": spread.stderr, "n": spread.n}
        for key, spread in row.values.items()
    }
    return {
        **{name: getattr(row, name) for name in ("rank", "label", "verdict", "sentence", "seconds", "cost", "unit")},
        "axes": dict(row.axes),
        "values": values,
        "jobs": [_job(job) for job in row.jobs],
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        **{name: getattr(job, name) for name in ("number", "directory", "state", "reason")},
        "axes": dict(job.axes),
        "seconds": job.seconds(),
    }
