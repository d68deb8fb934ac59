"""The micro-batch that takes the most memory: the longest pairs that can come together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preftune.data.store import Numbers
from preftune.training.preparation import Prepared
from preftune.training.settings import TrainSettings

_ANSWERS = 20_000  # single answers whose lengths are read; they lie on disk one by one


@dataclass(frozen=True)
class Longest:
    """A micro-batch as lengths, in tokens.

    Attributes:
        places: The rows.
        prompt: Of each prompt.
        answers: Of the answers to each prompt, of shape `(rows, 2)`; one column where answers come alone.
    """

    places: Numbers
    prompt: Numbers
    answers: Numbers

    @property
    def width(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return int((self.prompt[:, None] + self.answers).max())

    @property
    def sequences(self) -> int:
        """Prompts with an answer."""
        return int(self.answers.size)

    def tokens(self, *, shared: bool) -> int:
        """Return the tokens computed: each prompt once where `shared`, else all padded to the longest."""
        return int(self.prompt.sum() + self.answers.sum()) if shared else self.sequences * self.width

    def alike(self, count: int, scale: float) -> dict[str, Tensor]:
        """Return `count` rows of the mean lengths times `scale`, padded to the longest, as TRL's collator has them."""
        prompt = max(1, round(scale * float(self.prompt.mean())))
        answers = [max(1, round(scale * float(mean))) for mean in self.answers.mean(axis=0)]
        width = max(prompt + max(answers), round(scale * self.width))  # of all, not of these
        places = torch.arange(width).expand(count, width)
        completion = places >= prompt
        return {
            # the sides differ from their first token on, so that the prompt alone is their common beginning
            "input_ids": torch.cat([(places + side * completion) % 2 for side in range(len(answers))]),
            "attention_mask": torch.cat([(places < prompt + answer).long() for answer in answers]),
            "completion_mask": torch.cat([(completion & (places < prompt + answer)).long() for answer in answers]),
        }


def longest(prepared: Prepared, train: TrainSettings, *, shared: bool) -> Longest:
    """Return the micro-batch of the longest pairs that a step can bring.

    Args:
        prepared: The pairs, or the single answers.
        train: Pairs in a micro-batch, or its tokens.
        shared: Whether each prompt is computed once, so that what counts is the tokens of a pair, and
            `tokens_per_batch` bounds them; else it is the longer of its sequences.
    """
    prompt, answers = _lengths(prepared)
    sizes = prompt + (answers.sum(axis=1) if shared else answers.max(axis=1))
    order = np.argsort(-sizes, kind="stable")
    if shared and train.tokens_per_batch is not None:
        of_step = order[: prepared.steps.accumulation * train.micro_batch]
        taken = _within(of_step, sizes, train.tokens_per_batch)
    else:
        taken = order[: train.micro_batch]
    return Longest(taken, prompt[taken], answers[taken])


def _within(places: Numbers, sizes: Numbers, budget: int) -> Numbers:
    """Return the first of `places`, which beyond the budget stands alone, and each later one that still fits."""
    taken: list[int] = []
    room = budget
    for place in places:
        if not taken or sizes[place] <= room:
            taken.append(int(place))
            room -= int(sizes[place])
    return np.array(taken)


def _lengths(prepared: Prepared) -> tuple[Numbers, Numbers]:
    if not prepared.answers:
        rows = prepared.rows
        return rows.lengths("prompt"), np.stack([rows.lengths("chosen"), rows.lengths("rejected")], axis=1)
    answers = prepared.answers["train"]
    ids: Sequence[Any] = answers.ids(range(min(len(answers), _ANSWERS)))
    return np.array([len(prompt) for prompt, _ in ids]), np.array([[len(answer)] for _, answer in ids])
