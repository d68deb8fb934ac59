"""A dialogue is rendered once, and what comes out is checked."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.tokens import tokenization as tokens
from tests import stock

PAIR = PreferencePair(({"role": "user", "content": "Hello?"},), "Good day.", "No.", "made:1")


def chat(style: stock.Style, end_of_turn: str) -> ChatTokenizer:
    return ChatTokenizer(stock.tokenizer(style), end_of_turn)


CHATML = chat(stock.CHATML, "<|im_end|>")
LLAMA3 = chat(stock.LLAMA3, "<|eot_id|>")


def text(made: ChatTokenizer, ids: list[int]) -> str:
    return str(made.tokenizer.decode(ids))


def one(made: ChatTokenizer, pair: PreferencePair = PAIR) -> dict[str, Any]:
    return tokens.tokenize(stock.table([pair]), made, max_length=None, overlong="stop").rows[0]


def test_the_prompt_opens_the_assistants_turn_and_the_answer_ends_it() -> None:
    row = one(CHATML)
    assert text(CHATML, row["prompt_ids"]) == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
    assert text(CHATML, row["chosen_ids"]) == "Good day.<|im_end|>\n"
    assert text(CHATML, row["rejected_ids"]) == "No.<|im_end|>\n"


def test_a_dialogue_holds_exactly_one_bos() -> None:
    row = one(LLAMA3)
    bos = LLAMA3.tokenizer.bos_token_id
    assert (row["prompt_ids"] + row["chosen_ids"]).count(bos) == 1
    assert text(LLAMA3, row["chosen_ids"]) == "Good day.<|eot_id|>"


def test_a_long_pair_is_dropped_and_counted() -> None:
    made = tokens.tokenize(stock.table([PAIR, *stock.pairs(1)]), CHATML, max_length=30, overlong="drop")
    assert [row["row"] for row in made.rows] == [0]
    assert made.dropped == {"longer than 30 tokens": 1}


def test_a_long_pair_is_cut_and_counted() -> None:
    row = one(CHATML)
    length = len(row["prompt_ids"]) + 3
    made = tokens.tokenize(stock.table([PAIR]), CHATML, max_length=length, overlong="cut")
    assert made.rows[0]["chosen_ids"] == row["chosen_ids"][:3]
    assert (made.truncated, made.dropped) == (1, {})


def test_a_pair_that_becomes_equal_by_the_cut_is_dropped() -> None:
    pair = PreferencePair(PAIR.prompt, "Good day to you.", "Good day to them.", "made:1")
    length = len(one(CHATML, pair)["prompt_ids"]) + 2
    made = tokens.tokenize(stock.table([pair]), CHATML, max_length=length, overlong="cut")
    assert made.dropped == {"equal after the cut": 1}


def test_a_prompt_that_fills_the_length_is_dropped() -> None:
    made = tokens.tokenize(stock.table([PAIR]), CHATML, max_length=4, overlong="cut")
    assert made.dropped == {"prompt fills 4 tokens": 1}


def test_a_long_pair_stops_the_run_where_asked() -> None:
    with pytest.raises(Refusal, match=r"made:1: prompt and answer must have at most train\.max_length=4 tokens, got"):
        tokens.tokenize(stock.table([PAIR]), CHATML, max_length=4, overlong="stop")


def test_a_tokenizer_saved_and_loaded_renders_the_same(chatml_model: Path) -> None:
    loaded = PreTrainedTokenizerFast.from_pretrained(chatml_model)
    assert one(ChatTokenizer(loaded, "<|im_end|>")) == one(CHATML)
