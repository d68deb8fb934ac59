"""Single answers as token ids, each desirable or not, and the answers of other prompts that stand in for theirs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np

from preftune.data.answers import AnswerTable
from preftune.data.ledger import SplitLedger
from preftune.data.store import Numbers
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.tokens.encoding import Encoder
from preftune.tokens.tokenization import BATCH, OnBadRow, Overlong, TokenizedPairs

Ids = list[int]


@dataclass(frozen=True)
class TokenizedAnswers:
    """Answers to prompts, as ids.

    Attributes:
        desirable: Whether the answer is one to make more likely, of shape `(answers,)`.
        prompts: A number for the prompt of each answer, the same for prompts that differ in case or white space
            alone, of shape `(answers,)`.
        places: The place of each in what was tokenised, of shape `(answers,)`; of pairs, that of the pair.
        ids: Gives prompt and answer of those at some places.
        origin: Says where the answer at a place came from.
        paired: True where the answers at 2i and 2i + 1 are the chosen and the rejected of one pair.
    """

    desirable: Numbers
    prompts: Numbers
    places: Numbers
    ids: Callable[[Sequence[int]], list[tuple[Ids, Ids]]]
    origin: Callable[[int], str]
    paired: bool

    def __len__(self) -> int:
        return len(self.desirable)

    def batches(self, batch: int, seed: int | None) -> datasets.Dataset:
        """Return the rows that TRL's collator for single answers reads, and `row`, the place of the answer.

        Args:
            batch: Answers that come together: a mismatched answer is one of them, or another's prompt has none.
            seed: Of the order; None keeps the order.

        Raises:
            Refusal: All answers are to one prompt.
        """
        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(len(self))
        others = order[mismatched(self.prompts[order], batch)]
        rows = datasets.Dataset.from_dict({"row": order, "other": others})
        return rows.with_transform(partial(_rows, self.ids, self.desirable))


def unpaired(pairs: TokenizedPairs) -> TokenizedAnswers:
    """Return both answers of each pair, the chosen ones as desirable."""
    places = pairs.places()
    _, prompts = np.unique(pairs.pairs.numbers("prompt")[places], return_inverse=True)

    return TokenizedAnswers(
        desirable=np.arange(2 * len(places)) % 2 == 0,
        prompts=np.repeat(prompts, 2),
        places=np.repeat(places, 2),
        ids=partial(_ids_of_pairs, pairs.rows),
        origin=lambda place: f"{pairs.pairs.origin(int(places[place // 2]))} ({'rejected' if place % 2 else 'chosen'})",
        paired=True,
    )


def tokenize_answers(
    answers: AnswerTable,
    chat: ChatTokenizer,
    account: SplitLedger,
    *,
    max_length: int | None,
    overlong: Overlong,
    on_bad_row: OnBadRow,
) -> TokenizedAnswers:
    """Render and tokenise answers, each alone, and enter what was dropped or cut into `account`.

    Raises:
        Refusal: As `tokenization.tokenize` does, or no answer is left.
    """
    encoder = Encoder(chat)
    columns: dict[str, list[Any]] = {"prompt": [], "answer": [], "place": []}
    for start in range(0, len(answers), BATCH):
        some = answers[start : start + BATCH]
        alone = [PreferencePair(answer.prompt, answer.text, answer.text, answer.origin) for answer in some]
        for place, ids in enumerate(encoder.pairs(alone), start):
            origin = answers[place].origin
            if isinstance(ids, str) and on_bad_row == "stop":
                raise Refusal(f"{origin}: {ids}; data.on_bad_row=drop leaves such answers out")
            if isinstance(ids, str):
                account.drop(f"wrong: {re.split(', (?:got|but) ', ids)[0]}", 1)
            elif settled := _settled(origin, ids[0], ids[1], max_length, overlong, account):
                for column, value in zip(columns.values(), (*settled, place), strict=True):
                    column.append(value)
    if not columns["place"]:
        raise Refusal(
            f"{account.source} must keep at least one answer, got none of {len(answers)} that train.max_length="
            f"{max_length} and the template leave; raise it, or set data.overlong=cut"
        )
    places = np.array(columns.pop("place"))
    _, prompts = np.unique(answers.numbers("prompt")[places], return_inverse=True)
    return TokenizedAnswers(
        desirable=np.array([answers[place].desirable for place in places]),
        prompts=prompts,
        places=places,
        ids=partial(_ids_of_answers, datasets.Dataset.from_dict(columns)),
        origin=lambda place: str(answers[places[place]].origin),
        paired=False,
    )


def mismatched(prompts: Numbers, batch: int) -> Numbers:
    """Return for each answer the place of one to another prompt, which is put behind its own.

    Of `batch` answers that stand together each is taken once, as TRL takes them: the answers move on by one, or, where
    a prompt comes with several, by as many. Where a prompt has more than half of the answers, that cannot be; those
    whose turn would be their own prompt's take the next answer in the whole order that is not.

    Args:
        prompts: A number for the prompt of each answer, of shape `(answers,)`.
        batch: Answers that stand together.

    Returns:
        Places, of shape `(answers,)`; the prompt of none is its own.

    Raises:
        Refusal: There is but one prompt.
    """
    if len(np.unique(prompts)) < 2:
        raise Refusal(
            "the answers must be to two prompts or more for method=kto, which puts answers behind the prompts of "
            f"others, got {len(prompts)} answers to one prompt"
        )
    others = np.empty(len(prompts), dtype=np.int64)
    for start in range(0, len(prompts), batch):
        _, first, group, counts = np.unique(
            prompts[start : start + batch], return_index=True, return_inverse=True, return_counts=True
        )
        together = start + np.argsort(first[group], kind="stable")  # the answers to a prompt side by side
        others[together] = np.roll(together, counts.max())
    stuck = np.flatnonzero(prompts[others] == prompts)
    turns = np.flatnonzero(prompts != np.roll(prompts, 1))  # where the order goes over to another prompt
    others[stuck] = turns[np.searchsorted(turns, stuck, side="right") % len(turns)]
    return others


def _ids_of_pairs(pairs: datasets.Dataset, places: Sequence[int]) -> list[tuple[Ids, Ids]]:
    rows = pairs[[place // 2 for place in places]]
    sides = [rows["rejected_ids" if place % 2 else "chosen_ids"][n] for n, place in enumerate(places)]
    return list(zip(rows["prompt_ids"], sides, strict=True))


def _ids_of_answers(answers: datasets.Dataset, places: Sequence[int]) -> list[tuple[Ids, Ids]]:
    rows = answers[list(places)]
    return list(zip(rows["prompt"], rows["answer"], strict=True))


def _settled(
    origin: str, prompt: Ids, answer: Ids, limit: int | None, overlong: Overlong, account: SplitLedger
) -> tuple[Ids, Ids] | None:
    """Return the ids at a length that fits; None for an answer that is dropped, which `account` counts."""
    length = len(prompt) + len(answer)
    if limit is None or length <= limit:
        return prompt, answer
    if overlong == "stop":
        raise Refusal(
            f"{origin}: prompt and answer must have at most train.max_length={limit} tokens, got {length}; raise it, "
            "or set data.overlong to drop or cut"
        )
    if overlong == "cut" and len(prompt) < limit:
        account.truncated += 1
        return prompt, answer[: limit - len(prompt)]
    account.drop(f"longer than {limit} tokens" if overlong == "drop" else f"prompt fills {limit} tokens", 1)
    return None


def _rows(
    ids: Callable[[Sequence[int]], list[tuple[Ids, Ids]]], desirable: Numbers, taken: dict[str, list[int]]
) -> dict[str, list[Any]]:
    prompts, answers = zip(*ids(taken["row"]), strict=True)
    return {
        "prompt_ids": list(prompts),
        "completion_ids": list(answers),
        "KL_completion_ids": [answer for _, answer in ids(taken["other"])],
        "label": [bool(desirable[place]) for place in taken["row"]],
        "row": taken["row"],
    }
