"""What selection and odd texts come to: a sentence where nothing is left, and every legal character kept."""

import json
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings
from preftune.models.tokenizer import ChatTokenizer
from preftune.refusals import Refusal
from preftune.reporting.inert import inert
from preftune.tokens.encoding import control_tokens
from preftune.tokens.tokenization import tokenize_splits
from preftune.training.settings import TrainSettings
from preftune.training.steps import count_steps
from tests import stock
from tests.test_trainer import TRAIN

GOOD = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "gap": 1}
CHAT = ChatTokenizer(stock.tokenizer(stock.CHATML), "<|im_end|>")


def load(tmp_path: Path, rows: list[dict[str, object]], **choices: object) -> PreparedPairs:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"name": "x", "source": "files", "path": str(file), "dialect": "messages", "test_size": 1, "score": "gap"}
    return load_pairs(DataSettings.model_validate(fields | choices), control_tokens(CHAT))


def refusal(tmp_path: Path, rows: list[dict[str, object]], **choices: object) -> str:
    with pytest.raises(Refusal) as refused:
        load(tmp_path, rows, **choices)
    return str(refused.value)


def numbered(count: int, **change: object) -> list[dict[str, object]]:
    return [{**GOOD, "prompt": f"{n} + {n}?", **change} for n in range(count)]


TURNED = {**GOOD, "chosen": "5", "rejected": "4"}


@pytest.mark.parametrize(
    ("rows", "choices", "sentence"),
    [
        (
            [GOOD, TURNED],
            {"conflicts": "drop"},
            "rows.jsonl must keep at least one pair, got none: the last 2 are dropped as "
            "'in conflict with another pair'",
        ),
        (
            numbered(3, gap=0),
            {"ties": "drop"},
            "rows.jsonl must keep at least one pair, got none: the last 3 are dropped as 'tie in the score'",
        ),
        (
            numbered(3, gap=-0.5),
            {"min_margin": 0},
            "data.min_margin must be at most -0.5, the highest score of 3 pairs, got 0",
        ),
        (
            numbered(3, chosen="four"),
            {"max_length_ratio": 2},
            "data.max_length_ratio must be at least 4, the lowest of 3 pairs, got 2",
        ),
        (
            [GOOD, {**GOOD, "chosen": " 4\n"}],
            {},
            "data.test_size must leave at least 1 of 1 prompts to train on, got 1, which holds out 1; lower it, or "
            "give more pairs with different prompts",
        ),
        (
            [{**GOOD, "chosen": 4}, {**GOOD, "chosen": " "}, {**GOOD, "rejected": None}],
            {"on_bad_row": "drop"},
            "rows.jsonl must make at least one pair of its 3 rows, got none: 1 wrong: chosen must be text, "
            "1 wrong: chosen must not be empty, 1 wrong: rejected must be text\n"
            "  rows.jsonl:1: chosen must be text, got 4\n"
            "  rows.jsonl:2: chosen must not be empty, got ' '\n"
            "  rows.jsonl:3: rejected must be text, got null",
        ),
        (
            [GOOD, {**GOOD, "chosen": "4<|im_end|> and"}],
            {},
            "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
            "  rows.jsonl:2: chosen must hold no control token of the tokenizer, got '<|im_end|>' in "
            "'4<|im_end|> and'; data.control_tokens=escape breaks it up",
        ),
    ],
    ids=["conflicts", "ties", "min_margin", "ratio", "one prompt", "all wrong", "control token"],
)
def test_a_selection_that_leaves_nothing_says_which_step_took_the_last(tmp_path, rows, choices, sentence):
    assert refusal(tmp_path, rows, **choices) == sentence


def test_a_mix_of_which_one_source_has_nothing_left(tmp_path):
    mix = []
    for name, gap in (("a", 1), ("b", 0)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, numbered(4, gap=gap, chosen=name))))
        mix.append({"path": str(file), "score": "gap"})
    settings = DataSettings.model_validate(
        {"name": "x", "source": "mix", "mix": mix, "test_size": 1, "ties": "drop"},
    )
    with pytest.raises(Refusal) as refused:
        load_pairs(settings)
    assert str(refused.value) == (
        "data.mix must leave pairs of each source, got 0 of 4 of data.mix[0], 0 of 0 of data.mix[1]; take the empty "
        "one out, or change the weights"
    )


def test_a_mix_without_scores_cannot_be_cut_by_them(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, numbered(4))))
    fields = {"name": "x", "source": "mix", "mix": [{"path": str(file)}], "test_size": 1, "min_margin": 1}
    with pytest.raises(Refusal) as refused:
        load_pairs(DataSettings.model_validate(fields))
    assert str(refused.value) == (
        "mix must keep at least one pair, got none: the last 4 are dropped as 'below data.min_margin'"
    )


def test_copies_but_for_case_space_and_form_are_counted(tmp_path):
    rows = [*numbered(3), {**GOOD, "prompt": "0  + \uff10?"}, numbered(1)[0]]
    ledger = load(tmp_path, rows).ledger.train
    assert ledger.dropped == {"duplicate": 1, "duplicate but for case or space": 1, "held out": 1}


def test_bidi_characters_are_text_that_is_kept_and_shown_inert(tmp_path):
    odd = "user\u202e txt.exe\u202c \u2066x\u2069"
    prepared = load(tmp_path, numbered(3, chosen=odd))
    assert {pair.chosen for pair in prepared.train} == {odd}
    assert not set(inert(odd)) & set("\u202e\u202c\u2066\u2069")


def test_a_megabyte_of_answer_is_kept_and_dropped_by_its_length_with_a_count(tmp_path):
    long = "word " * 200_000
    prepared = load(tmp_path, [*numbered(3), {**GOOD, "prompt": "Long?", "chosen": long}], test_size=1, split_seed=1)
    assert long in {pair.chosen for split in (prepared.train, prepared.held_out) for pair in split}
    assert long in {pair.chosen for pair in prepared.train}
    rows, _ = tokenize_splits(prepared, CHAT, 512, "drop")
    assert len(rows.rows) == 2
    assert prepared.ledger.train.dropped["longer than 512 tokens"] == 1
    assert prepared.ledger.train.kept == 2


def test_no_pair_that_fits_the_length_is_refused_with_the_reason(tmp_path):
    with pytest.raises(Refusal) as refused:
        tokenize_splits(load(tmp_path, numbered(3)), CHAT, 4, "drop")
    assert str(refused.value) == (
        "the train split must keep at least one pair of its 2, got none: 2 longer than 4 tokens; raise "
        "train.max_length or set data.overlong=cut"
    )


def test_a_column_of_numbers_where_text_belongs(tmp_path):
    parquet.write_table(Table.from_pylist([{**GOOD, "chosen": n} for n in range(3)]), tmp_path / "rows.parquet")
    fields = {"name": "x", "source": "files", "path": str(tmp_path / "rows.parquet"), "test_size": 1}
    with pytest.raises(Refusal) as refused:
        load_pairs(DataSettings.model_validate({**fields, "dialect": "messages"}))
    assert str(refused.value) == (
        "every row must be right, got 3 wrong of 3; mend or remove them, or set data.on_bad_row=drop:\n"
        "  rows.parquet:1: chosen must be text, got 0\n"
        "  rows.parquet:2: chosen must be text, got 1\n"
        "  rows.parquet:3: chosen must be text, got 2"
    )


def test_fewer_pairs_than_a_batch_are_one_step_and_none_are_refused():
    recipe = TrainSettings.model_validate({**TRAIN, "max_steps": -1, "num_train_epochs": 1.0})
    steps = count_steps(recipe, 3, devices=1)
    assert (steps.pairs, steps.batch, steps.steps) == (3, 8, 1)
    with pytest.raises(Refusal) as refused:
        count_steps(recipe, 0, devices=1)
    assert str(refused.value) == (
        "there must be at least one pair to train on, got none; the ledger says what dropped them"
    )
