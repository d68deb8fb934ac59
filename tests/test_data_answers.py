"""Labelled answers taken as they are: every row read is kept, or dropped for a reason that stands in the ledger."""

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.data.answers import PreparedAnswers, load_answers, recognised
from preftune.data.settings import DataSettings
from preftune.refusals import Refusal
from tests import stock


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Ask {n // 2}", "completion": f"say {n}", "label": n % 3 == 0} for n in range(count)]


def settings(path: Path, made: list[dict[str, Any]], **changes: Any) -> DataSettings:
    path = path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, made)))
    return stock.data_settings(path, **{"dialect": "labelled", "test_size": 2} | changes)


def texts(prepared: PreparedAnswers) -> set[str]:
    return {answer.text for answer in [*prepared.train, *prepared.held_out]}


def test_every_row_is_one_answer_with_its_label(tmp_path: Path) -> None:
    prepared = load_answers(settings(tmp_path, rows(20)))
    answers = {answer.text: answer for answer in [*prepared.train, *prepared.held_out]}
    assert set(answers) == {f"say {n}" for n in range(20)}
    assert all(answer.desirable == (int(text.split()[1]) % 3 == 0) for text, answer in answers.items())
    assert answers["say 4"].prompt == ({"role": "user", "content": "Ask 2"},)
    assert answers["say 4"].origin == "labelled.jsonl:5"


def test_prompts_are_held_out_with_all_their_answers(tmp_path: Path) -> None:
    prepared = load_answers(settings(tmp_path, rows(20)))
    held_out, train = (
        {answer.prompt[0]["content"] for answer in table} for table in (prepared.held_out, prepared.train)
    )
    assert (len(held_out), len(train)) == (2, 8)
    assert not held_out & train
    assert prepared.ledger.train.dropped["held out"] == 4
    assert (prepared.ledger.train.kept, prepared.ledger.held_out.kept) == (16, 4)


def test_copies_are_dropped_and_both_labels_of_one_answer_are_no_copies(tmp_path: Path) -> None:
    made = [*rows(20), rows(20)[3], rows(20)[3] | {"completion": "SAY  3"}, rows(20)[3] | {"label": False}]
    for duplicates, kept in (("normalized", 21), ("exact", 22), ("keep", 23)):
        prepared = load_answers(settings(tmp_path, made, duplicates=duplicates))
        assert len(prepared.train) + len(prepared.held_out) == kept
    assert prepared.ledger.train.conflicting == 3  # row 3, its copy, and the one with the other label
    dropped = load_answers(settings(tmp_path, made, conflicts="drop"))
    assert "say 3" not in texts(dropped)
    assert dropped.ledger.train.dropped["in conflict with another answer"] == 3


def test_a_limit_keeps_the_same_answers_in_any_order(tmp_path: Path) -> None:
    first = load_answers(settings(tmp_path, rows(20), max_rows=12))
    turned = load_answers(settings(tmp_path, rows(20)[::-1], max_rows=12))
    assert texts(first) == texts(turned)
    assert len(texts(first)) == 12
    assert first.ledger.train.dropped["beyond data.max_rows"] == 8


def test_a_wrong_row_stops_the_run_or_is_dropped_and_counted(tmp_path: Path) -> None:
    made = [*rows(20), {"prompt": "Ask", "completion": "say", "label": "maybe"}, rows(1)[0] | {"completion": " "}]
    with pytest.raises(Refusal, match=r"got 2 wrong of 22.*\n  labelled.jsonl:21: label must be true or false"):
        load_answers(settings(tmp_path, made))
    prepared = load_answers(settings(tmp_path, made, on_bad_row="drop"))
    assert prepared.ledger.train.dropped["wrong: completion must not be empty"] == 1
    assert len(texts(prepared)) == 20
    with pytest.raises(Refusal, match=r"more than the share of data\.max_dropped=0\.05, 0\.0909 of all"):
        load_answers(settings(tmp_path, made, on_bad_row="drop", max_dropped=0.05))


def test_control_tokens_are_refused_or_broken_up(tmp_path: Path) -> None:
    made = [*rows(20), {"prompt": "Ask <|end|>", "completion": "say <|end|>", "label": True}]
    with pytest.raises(Refusal, match=r"completion must hold no control token of the tokenizer, got '<\|end\|>'"):
        load_answers(settings(tmp_path, made), ["<|end|>"])
    prepared = load_answers(settings(tmp_path, made, control_tokens="escape"), ["<|end|>"])
    (broken,) = [answer for answer in [*prepared.train, *prepared.held_out] if "end" in answer.text]
    assert (broken.prompt[0]["content"], broken.text) == ("Ask < |end|>", "say < |end|>")
    assert prepared.ledger.train.escaped == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pairing": "all"}, r"data\.pairing must be 'best_worst' where labelled answers .* without pairs, got 'all'"),
        ({"pairing_gap": 0.5}, r"data\.pairing_gap must be 0\.0 where labelled answers .*, got 0\.5"),
        ({"max_length_ratio": 2.0}, r"data\.max_length_ratio must be null where labelled answers .*, got 2\.0"),
        ({"conflicts": "merge"}, r"data\.conflicts must be keep or drop where labelled answers .*, got 'merge'"),
        ({"test_size": 10}, r"data\.test_size must leave at least 1 of 10 prompts to train on, got 10"),
    ],
)
def test_settings_of_pairs_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        load_answers(settings(tmp_path, rows(20), **changes))


def test_nothing_that_is_left_is_refused(tmp_path: Path) -> None:
    both = [rows(1)[0], rows(1)[0] | {"label": False}]
    with pytest.raises(Refusal, match="must keep at least one answer, got none: the last 2 are dropped as 'in confl"):
        load_answers(settings(tmp_path, both, conflicts="drop"))
    (tmp_path / "none.csv").write_text("prompt,completion,label\n")
    with pytest.raises(Refusal, match=r"none\.csv must hold at least one row, got none"):
        load_answers(stock.data_settings(tmp_path / "none.csv", dialect="labelled"))
    wrong = stock.data_settings(tmp_path / "wrong.csv", dialect="labelled", on_bad_row="drop")
    (tmp_path / "wrong.csv").write_text("prompt,completion,label\nAsk,say,maybe\n")
    with pytest.raises(Refusal, match=r"wrong\.csv must hold at least one answer that is right, got none of 1 rows"):
        load_answers(wrong)


def test_auto_finds_labelled_rows_and_leaves_others_to_pairs(tmp_path: Path, pair_file: Path) -> None:
    assert recognised(settings(tmp_path, rows(20), dialect="auto")).dialect == "labelled"
    assert recognised(stock.data_settings(pair_file, dialect="auto")).dialect == "messages"


def test_the_fingerprint_tells_labels_apart(tmp_path: Path) -> None:
    turned = [row | {"label": not row["label"]} for row in rows(20)]
    first, second, same = (
        load_answers(settings(tmp_path, made)).fingerprint() for made in (rows(20), turned, rows(20))
    )
    assert first == same != second
