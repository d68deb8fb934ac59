"""Single answers as rows: the two of each pair apart, and behind each prompt the answer to another."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from preftune.data.answers import AnswerTable
from preftune.data.ledger import SplitLedger
from preftune.models.source import locate
from preftune.models.tokenizer import load_tokenizer
from preftune.pairs import LabelledAnswer
from preftune.refusals import Refusal
from preftune.tokens.answers import TokenizedAnswers, mismatched, tokenize_answers, unpaired
from preftune.tokens.tokenization import Overlong, TokenizedPairs, tokenize
from tests import stock


@pytest.fixture
def pairs(chatml_model: Path) -> TokenizedPairs:
    """Eleven pairs, two of which are to one prompt."""
    made = stock.pairs(10)
    made.append(made[3].__class__(made[3].prompt, "Another answer.", "And another.", "made:again"))
    settings = stock.model_settings(chatml_model)
    return tokenize(stock.table(made), load_tokenizer(settings, locate(settings)), max_length=None, overlong="drop")


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 100])
@pytest.mark.parametrize("seed", range(5))
def test_no_answer_stands_behind_its_own_prompt(batch: int, seed: int) -> None:
    prompts = np.random.default_rng(seed).integers(0, 9, 61)
    assert not (prompts[mismatched(prompts, batch)] == prompts).any()


def test_the_answers_of_a_batch_stand_in_for_each_other_each_once() -> None:
    prompts = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
    others = mismatched(prompts, 4)
    assert [sorted(others[start : start + 4]) for start in (0, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert others[8:].tolist() == [9, 8]


def test_answers_to_different_prompts_move_on_by_one() -> None:
    assert mismatched(np.array([7, 3, 5, 1, 2]), 3).tolist() == [2, 0, 1, 4, 3]


def test_where_a_prompt_has_most_of_a_batch_the_next_answer_to_another_stands_in() -> None:
    prompts = np.array([0, 0, 0, 1, 2])
    others = mismatched(prompts, 4)
    assert not (prompts[others] == prompts).any()
    assert others[4] == 0  # alone in the last batch: the next in the whole order


def test_one_prompt_alone_is_refused() -> None:
    with pytest.raises(Refusal, match=r"the answers must be to two prompts or more .*, got 3 answers to one prompt"):
        mismatched(np.zeros(3), 2)


def test_both_answers_of_a_pair_come_apart_with_their_labels(pairs: TokenizedPairs) -> None:
    answers = unpaired(pairs)
    assert len(answers) == 22
    rows = {row["row"]: row for row in answers.batches(4, seed=0)}
    assert len(rows) == 22
    for place, pair in enumerate(pairs.rows):
        for side, name in enumerate(("chosen", "rejected")):
            row = rows[2 * place + side]
            assert row["prompt_ids"] == pair["prompt_ids"]
            assert row["completion_ids"] == pair[f"{name}_ids"]
            assert row["label"] is (name == "chosen")
            assert answers.origin(2 * place + side) == f"made:{place if place < 10 else 'again'} ({name})"


@pytest.mark.parametrize("batch", [2, 4, 5, 22])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_no_row_holds_an_answer_to_its_own_prompt_as_mismatched(
    pairs: TokenizedPairs, batch: int, seed: int | None
) -> None:
    own: dict[str, list[list[int]]] = {}
    for pair in pairs.rows:
        own.setdefault(json.dumps(pair["prompt_ids"]), []).extend((pair["chosen_ids"], pair["rejected_ids"]))
    rows = list(unpaired(pairs).batches(batch, seed))
    for row in rows:
        assert row["KL_completion_ids"] not in own[json.dumps(row["prompt_ids"])]
    for start in range(0, len(rows) - batch + 1, batch):
        together = rows[start : start + batch]
        taken, there = (
            Counter(json.dumps(row[name]) for row in together) for name in ("KL_completion_ids", "completion_ids")
        )
        counts = Counter(json.dumps(row["prompt_ids"]) for row in together)
        assert taken == there or 2 * max(counts.values()) > batch


def test_the_order_is_mixed_by_the_seed_and_the_same_for_the_same(pairs: TokenizedPairs) -> None:
    answers = unpaired(pairs)

    def order(made: TokenizedAnswers, seed: int | None) -> list[int]:
        return [row["row"] for row in made.batches(4, seed)]

    assert order(answers, None) == list(range(22))
    assert order(answers, 0) == order(answers, 0) != order(answers, 1)
    neighbours = zip(order(answers, 0)[::2], order(answers, 0)[1::2], strict=True)
    assert sum(one // 2 == other // 2 for one, other in neighbours) < 5


def labelled(count: int) -> AnswerTable:
    return AnswerTable(
        [LabelledAnswer(pair.prompt, pair.chosen, n % 3 > 0, pair.origin) for n, pair in enumerate(stock.pairs(count))]
    )


def test_labelled_answers_have_the_ids_that_pairs_have(chatml_model: Path, pairs: TokenizedPairs) -> None:
    settings, account = stock.model_settings(chatml_model), SplitLedger("made", 10)
    chat = load_tokenizer(settings, locate(settings))
    answers = tokenize_answers(labelled(10), chat, account, max_length=None, overlong="drop", on_bad_row="stop")
    rows = list(answers.batches(4, None))
    assert [row["prompt_ids"] for row in rows] == pairs.rows["prompt_ids"][:10]
    assert [row["completion_ids"] for row in rows] == pairs.rows["chosen_ids"][:10]
    assert [row["label"] for row in rows] == [n % 3 > 0 for n in range(10)]
    assert [answers.origin(n) for n in range(10)] == [f"made:{n}" for n in range(10)]
    assert not answers.paired


@pytest.mark.parametrize("overlong", ["drop", "cut", "stop"])
def test_a_labelled_answer_that_is_too_long_is_dropped_cut_or_refused(chatml_model: Path, overlong: Overlong) -> None:
    settings, account = stock.model_settings(chatml_model), SplitLedger("made", 10)
    chat = load_tokenizer(settings, locate(settings))

    def made(limit: int | None, how: Overlong = overlong) -> TokenizedAnswers:
        return tokenize_answers(labelled(10), chat, account, max_length=limit, overlong=how, on_bad_row="stop")

    lengths = [len(prompt) + len(answer) for prompt, answer in made(None).ids(range(10))]
    limit = sorted(lengths)[5]
    longer = sum(length > limit for length in lengths)
    assert longer > 0
    if overlong == "stop":
        with pytest.raises(
            Refusal, match=rf"prompt and answer must have at most train\.max_length={limit} tokens, got"
        ):
            made(limit)
        return
    cut = made(limit)
    now = [len(prompt) + len(answer) for prompt, answer in cut.ids(range(len(cut)))]
    assert max(now) == limit
    assert cut.places.tolist() == [n for n in range(10) if overlong == "cut" or lengths[n] <= limit]
    assert account.truncated == (longer if overlong == "cut" else 0)
    assert account.dropped == ({} if overlong == "cut" else {f"longer than {limit} tokens": longer})
    with pytest.raises(Refusal, match=r"made must keep at least one answer, got none of 10 that train\.max_length=2"):
        made(2)
