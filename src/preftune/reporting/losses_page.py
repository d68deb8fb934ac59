"""Losses as one HTML page: formula, parameters, paper, and cost and slope along the margin."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from latex2mathml import converter, exceptions

from preftune.refusals import Refusal
from preftune.reporting.charts import line
from preftune.reporting.loss_descriptions import NATS_PER_TOKEN, NUMBERS, TOKENS, Description, curve
from preftune.reporting.page import page, safe
from preftune.runs.files import write_text

_MARGINS = range(-100, 101)
_INLINE = re.compile(r":math:`([^`]*)`|`([^`]*)`")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_NOT_CONVERTED: tuple[type[Exception], ...] = (
    *(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ElementTree.ParseError, LookupError, StopIteration, TypeError, ValueError),
)


def losses_page(losses: Sequence[Description]) -> str:
    """Return one self-contained page without a script."""
    numbers = ", ".join(f"{name} {value:g}" for name, value in NUMBERS.items())
    contents = "".join(f'<li><a href="#{safe(loss.name)}">{safe(loss.name)}</a></li>' for loss in losses)
    return page(
        "Losses",
        "\n".join(
            [
                "<h1>Losses</h1>",
                '<p class="lede">What a pair costs, by its margin: the nats by which training has moved chosen above '
                "rejected, seen from the reference. In the plots chosen goes up and rejected down by half of it each; "
                f"both answers have {TOKENS} tokens of {NATS_PER_TOKEN:g} nats under the reference, and a pair carries "
                f"{safe(numbers)}. The slope is what a nat more of margin changes; below 0 training raises the "
                "margin.</p>",
                f'<ul class="contents">{contents}</ul>',
                *(_loss(loss) for loss in losses),
            ]
        ),
    )


def write_page(losses: Sequence[Description], path: Path) -> None:
    """Write the page.

    Raises:
        Refusal: It cannot be written there.
    """
    try:
        write_text(path, losses_page(losses))
    except OSError as error:
        raise Refusal(f"--page must be a file that can be written, got {path}: {error.strerror}") from error


def _loss(loss: Description) -> str:
    formulas = "".join(f'<div class="formula">{_math(formula, "block")}</div>' for formula in loss.formulas)
    paragraphs = "".join(f"<p>{_prose(paragraph)}</p>" for paragraph in loss.paragraphs)
    source = f'<p class="quiet">{_prose(loss.source)}</p>' if loss.source else ""
    returns = f'<p class="label">Returns</p><p>{_prose(loss.returns)}</p>' if loss.returns else ""
    return (
        f'<section class="card example" id="{safe(loss.name)}"><h2 style="margin-top: 0">{safe(loss.name)}</h2>'
        f'<p class="lede">{_prose(loss.summary)}</p>{formulas}<div class="answers"><div>{paragraphs}'
        f"{_parameters(loss)}{returns}{source}</div><div>{''.join(_plots(loss))}</div></div></section>"
    )


def _parameters(loss: Description) -> str:
    rows = []
    for name, said in loss.arguments.items():
        value = f" = {loss.parameters[name]}" if name in loss.parameters else ""
        rows.append(f"<p><code>{safe(f'{name}{value}')}</code><br>{_prose(said)}</p>")
    return f'<p class="label">Parameters</p>{"".join(rows)}' if rows else ""


def _plots(loss: Description) -> Iterator[str]:
    if not loss.drawable():
        yield '<p class="quiet">Not drawn: no file of conf/loss/ gives its parameters.</p>'
        return
    points = curve(loss, _MARGINS)
    for title, column, colour in (("Cost", 1, "chosen"), ("Slope", 2, "rejected")):
        yield f'<p class="label">{title}</p>'
        yield line([(point[0], point[column]) for point in points], colour, "margin, nats", (0, "reference"))


def _prose(text: str) -> str:
    """Return text of a docstring as HTML: mathematics, code and papers within it, all else plain."""
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts.append(_linked(text[end : found.start()]))
        latex, code = found.groups()
        parts.append(f"<code>{safe(code)}</code>" if latex is None else _math(latex, "inline"))
        end = found.end()
    return "".join([*parts, _linked(text[end:])])


def _linked(text: str) -> str:
    return _PAPER.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', safe(text))


def _math(latex: str, display: str) -> str:
    """Return LaTeX as MathML, or as it is written where it is not understood."""
    spaced = re.sub(r"\\log(?=\s*[\\A-Za-z0-9])", r"\\log\\,", latex)
    try:
        markup = converter.convert(spaced, display=display)
        elements = ElementTree.fromstring(markup).iter()
    except _NOT_CONVERTED:
        return f"<code>{safe(latex)}</code>"
    # The converter passes on what it does not know, unescaped: only elements of MathML may come of it.
    known = all(
        element.tag.rpartition("}")[2].startswith("m") and "\\" not in (element.text or "") for element in elements
    )
    return markup if known else f"<code>{safe(latex)}</code>"
