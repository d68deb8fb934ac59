"""What a loss says of itself in its docstring, and what it costs along the margin."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import Traits, traits_of

_SECTION = re.compile(r"^(Args|Returns|Raises|Source|Example|Examples|Note|Notes):$", re.M)
_FORMULA = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+.*)?)*)", re.M)
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)(?: \([^)]*\))?: ", re.M)

# The pair that a curve is drawn for: answers as long as each other, as likely per token under the reference.
TOKENS = 16
NATS_PER_TOKEN = 5.0
NUMBERS = {"probability": 0.8, "score": 2.0, "score_chosen": 3.0, "score_rejected": 1.0, "weight": 1.0}
_OTHER_NUMBER = 0.5


@dataclass(frozen=True, slots=True)
class Description:
    """The parts of a loss's docstring, and the parameters that it is shown with.

    Attributes:
        name: Of the loss, or its dotted path.
        summary: First line.
        formulas: LaTeX.
        paragraphs: What stands between the summary and the first section, without the formulas.
        arguments: What is said of each parameter, without the pairs themselves.
        returns: What a cost is, with its unit.
        source: The paper.
        parameters: Values by name; none where no file gives them.
        function: The loss.
    """

    name: str
    summary: str
    formulas: tuple[str, ...]
    paragraphs: tuple[str, ...]
    arguments: Mapping[str, str]
    returns: str
    source: str
    parameters: Mapping[str, Any]
    function: Callable[..., Tensor]

    def paper(self) -> str:
        """Return the identifier of the first paper, `arXiv:2305.18290`, or nothing."""
        found = re.search(r"arXiv:\d{4}\.\d{4,5}", self.source)
        return found.group() if found else ""

    def drawable(self) -> bool:
        """Tell whether each parameter has a value, so that the loss can be called."""
        return parameters_of(self.function).keys() <= {*self.parameters, *_with_default(self.function)}


def describe(name: str, function: Callable[..., Tensor], parameters: Mapping[str, Any]) -> Description:
    """Read a loss's docstring; a part that is not there is empty."""
    parts = _SECTION.split(inspect.getdoc(function) or "")
    sections = dict(zip(parts[1::2], (textwrap.dedent(part.strip("\n")) for part in parts[2::2]), strict=True))
    formulas = tuple(_one_line(found) for found in _FORMULA.findall(parts[0]))
    summary, *paragraphs = [_one_line(part) for part in _FORMULA.sub("", parts[0]).split("\n\n") if part.strip()] or [
        ""
    ]
    said = _ARGUMENT.split(sections.get("Args", ""))
    arguments = dict(zip(said[1::2], map(_one_line, said[2::2]), strict=True))
    return Description(
        name,
        summary,
        formulas,
        tuple(paragraphs),
        {parameter: arguments.get(parameter, "") for parameter in parameters_of(function)},
        _one_line(sections.get("Returns", "")),
        _one_line(sections.get("Source", "")),
        parameters,
        function,
    )


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a loss, without the pairs."""
    taken = list(inspect.signature(function).parameters.values())[1:]
    return {each.name: each for each in taken if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)}


def curve(loss: Description, margins: Sequence[float]) -> list[tuple[float, float, float]]:
    """Return what a pair costs, and by how much a nat of margin changes that, at each of `margins`.

    The margin moves by the chosen answer going up and the rejected one down by half of it each. Each pair is a batch
    of its own, at the start of a run; its answers have `TOKENS` tokens of `NATS_PER_TOKEN` nats under the reference.

    Args:
        loss: A drawable one.
        margins: In nats, at most 160 up or down, where an answer becomes certain.

    Returns:
        Margin, cost and slope, for each margin.
    """
    points = []
    for margin in margins:
        moved = torch.tensor(float(margin), dtype=torch.float64, requires_grad=True)
        cost = loss.function(_pair(moved, traits_of(loss.function)), **loss.parameters).sum()
        (slope,) = torch.autograd.grad(cost, moved, materialize_grads=True, allow_unused=True)
        points.append((float(margin), cost.item(), slope.item()))
    return points


class _Numbers(dict[str, Tensor]):
    """The extras of the pair; a name that is not known has a number too."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Tensor:
        return torch.tensor([_OTHER_NUMBER], dtype=torch.float64)


def _pair(margin: Tensor, traits: Traits) -> PairLogps:
    reference = torch.full((1, TOKENS), -NATS_PER_TOKEN, dtype=torch.float64)
    sides = [
        TokenLogps(
            reference + moved / TOKENS,
            reference,
            reference if "collision" in traits.tokens else None,
            torch.zeros_like(reference) if "kl" in traits.tokens else None,
        )
        for moved in (margin / 2, -margin / 2)
    ]
    length = torch.tensor([TOKENS])
    chosen, rejected = sides
    return PairLogps(
        chosen.policy.sum(1),
        rejected.policy.sum(1),
        reference.sum(1),
        reference.sum(1),
        length,
        length,
        extras=_Numbers({name: torch.tensor([value], dtype=torch.float64) for name, value in NUMBERS.items()}),
        chosen_tokens=chosen if traits.tokens else None,
        rejected_tokens=rejected if traits.tokens else None,
    )


def _with_default(function: Callable[..., Any]) -> list[str]:
    return [name for name, each in parameters_of(function).items() if each.default is not each.empty]


def _one_line(text: str) -> str:
    return " ".join(text.split())
