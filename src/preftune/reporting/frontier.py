"""The frontier as a picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from preftune.reporting.charts import number
from preftune.reporting.curves import DIVERGENCE, Frontier, Painted, named
from preftune.reporting.inert import inert
from preftune.reporting.scales import root_marks

# As in series_chart: disc, square, triangle, diamond, triangle on its tip.
_MARKERS = "os^Dv"
_INK, _QUIET = "#1b1b1a", "#5d5c58"


def write_frontier(path: Path, frontier: Frontier, lines: Sequence[Painted], title: str) -> None:
    """Draw the frontier to a PNG of 1,280 by 800 pixels on white, with the standard error of each point.

    Args:
        path: Where.
        frontier: What to draw, at least one line.
        lines: The colour of each line by its class.
        title: What stands above.

    Raises:
        OSError: It cannot be written.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = {line.style: line.colour for line in lines}
    shown = {line.row.label for line in named(lines)}
    for one in frontier.series:
        colour = colours[one.colour]
        points = one.points
        axes.errorbar(
            [point.x for point in points],
            [point.y for point in points],
            xerr=[point.x_error or 0.0 for point in points],
            yerr=[point.y_error or 0.0 for point in points],
            color=colour.light,
            linestyle="--" if colour.dashed else "-",
            marker=_MARKERS[one.shape % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.6,
            elinewidth=0.7,
            label=_text(one.name, 44) if one.name in shown else "_",
        )
    axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(abs(x)), lambda x: x * abs(x)))
    axes.set_xticks(marks := root_marks(*axes.get_xlim()), [number(mark) for mark in marks])
    axes.set_xlabel(DIVERGENCE.name, color=_QUIET)
    axes.set_ylabel(frontier.height, color=_QUIET)
    axes.set_title(_text(title, 90), loc="left", fontsize=11, color=_INK)
    axes.tick_params(colors=_QUIET)
    axes.grid(color="#dddcd7", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper", fontsize=9)  # beside the plot, where it hides no point
    beside = path.with_name(f".{path.name}.tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font does not have is drawn as a box
        figure.savefig(beside, format="png", metadata={"Software": None})
    beside.replace(path)


def _text(text: str, most: int) -> str:
    """Return at most `most` letters of text, in which no dollar begins a formula."""
    plain = inert(text).replace("\n", " ")
    half = (most - 3) // 2
    # What tells jobs apart may stand at either end.
    return (plain if len(plain) <= most else f"{plain[:half]}...{plain[-half:]}").replace("$", r"\$")
