"""A stream is trained on as it comes: what looks at one pair works, what needs the whole set is refused by name."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from preftune.data.loading import load_pairs
from preftune.data.settings import DataSettings
from preftune.data.streaming import SAMPLE, PairStream
from preftune.models.tokenizer import ChatTokenizer
from preftune.refusals import Refusal
from preftune.tokens.tokenization import token_stream
from tests import stock

CHATML = ChatTokenizer(stock.tokenizer(stock.CHATML), "<|im_end|>")


def written(tmp_path: Path, rows: list[dict[str, object]]) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(number: int, **columns: object) -> dict[str, object]:
    return {"prompt": f"Question {number}?", "chosen": f"Good {number}", "rejected": f"Bad {number}", **columns}


def settings(path: Path, **changes: object) -> DataSettings:
    return stock.data_settings(path, **{"streaming": True, "duplicates": "keep", "test_size": 2, **changes})


def stream_of(prepared: Any) -> PairStream:
    assert prepared.stream is not None
    return prepared.stream


def test_the_first_prompts_are_held_out_and_the_rest_is_streamed_on_every_pass(tmp_path):
    prepared = load_pairs(settings(written(tmp_path, [row(n // 2) for n in range(20)])))
    assert [pair.prompt[0]["content"] for pair in prepared.held_out] == ["Question 0?"] * 2 + ["Question 1?"] * 2
    for _ in range(2):
        streamed = [pair.origin for pair in stream_of(prepared)]
        assert streamed == [f"rows.jsonl:{n}" for n in range(5, 21)]
    assert list(prepared.train) == list(stream_of(prepared))
    account = prepared.ledger.train
    assert (account.read, account.dropped, account.kept) == (20, {"prompt in the held-out split": 4}, 16)


def test_a_held_out_prompt_that_comes_again_later_is_dropped(tmp_path):
    again = row(0, prompt="QUESTION  0?")
    prepared = load_pairs(settings(written(tmp_path, [*map(row, range(6)), again])))
    assert [pair.origin for pair in stream_of(prepared)] == [f"rows.jsonl:{n}" for n in (3, 4, 5, 6)]


def test_only_a_sample_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("preftune.data.loading.SAMPLE", 5)
    prepared = load_pairs(settings(written(tmp_path, [row(n) for n in range(30)])))
    assert len(prepared.train) == 5
    assert SAMPLE == 1000
    assert len(list(stream_of(prepared))) == 28


def test_steps_that_look_at_one_pair_are_taken(tmp_path):
    rows = [row(n, score=float(n)) for n in range(3)]
    rows += [row(3, score=0.0), row(4, score=0.5), row(5, score=9.0, chosen="x" * 90), row(6, score=4.0)]
    chosen = {"score": "score", "ties": "drop", "min_margin": 1.0, "max_length_ratio": 3.0, "test_size": 1}
    prepared = load_pairs(settings(written(tmp_path, rows), **chosen))
    assert [pair.origin for pair in stream_of(prepared)] == ["rows.jsonl:3", "rows.jsonl:7"]
    assert prepared.ledger.train.dropped == {
        "tie in the score": 2,
        "prompt in the held-out split": 1,
        "below data.min_margin": 1,
        "beyond data.max_length_ratio": 1,
    }


def test_a_wrong_row_stops_the_stream_or_is_counted(tmp_path):
    file = written(tmp_path, [*map(row, range(4)), row(4, chosen=" "), row(5)])
    with pytest.raises(Refusal, match=r"rows\.jsonl:5: chosen must not be empty, got \' \'"):
        load_pairs(settings(file))
    prepared = load_pairs(settings(file, on_bad_row="drop"))
    assert prepared.ledger.train.dropped == {"wrong: chosen must not be empty": 1, "prompt in the held-out split": 2}
    assert prepared.ledger.train.kept == 3


def test_too_few_prompts_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"data\.test_size must leave at least 1 of 2 prompts to train on, got 2;"):
        load_pairs(settings(written(tmp_path, [row(0), row(1)])))


def test_answers_that_come_one_a_row_are_refused(tmp_path):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": True} for n in range(4)]
    with pytest.raises(Refusal, match=r"data\.streaming must be false for data\.dialect=labelled, which"):
        load_pairs(settings(written(tmp_path, rows), dialect="labelled"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"top_k": 5, "score": "s"},
            "data.top_k must be null where data.streaming is true, since it needs",
        ),
        (
            {"max_rows": 5},
            "data.max_rows must be null where data.streaming is true, since it needs the",
        ),
        ({"duplicates": "exact"}, "data.duplicates must be keep where data.streaming is true, since it needs the"),
        (
            {"conflicts": "merge"},
            "data.conflicts must be keep where data.streaming is true, since it needs the",
        ),
        ({"max_dropped": 0.1, "on_bad_row": "drop"}, "data.max_dropped must be null where data.streaming is true"),
        ({"test_size": 0.1}, "data.test_size must be a number of prompts, the first of the rows, where data.streaming"),
    ],
)
def test_what_needs_the_whole_set_is_refused_by_name(changes, sentence):
    with pytest.raises(ValidationError) as refused:
        settings(Path("rows.jsonl"), **changes)
    assert sentence in str(refused.value)


def test_rows_of_a_stream_are_ids_in_a_mixed_order_and_lengths_are_counted_once(tmp_path):
    rows = [row(n, rejected="Bad " * (40 if n == 9 else 1)) for n in range(12)]
    prepared = load_pairs(settings(written(tmp_path, rows)))
    made = token_stream(stream_of(prepared), CHATML, max_length=60, overlong="drop", seed=0)
    places = [[one["row"] for one in made] for _ in range(2)]
    assert sorted(places[0]) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert places[0] != sorted(places[0])
    assert prepared.ledger.train.dropped == {"prompt in the held-out split": 2, "longer than 60 tokens": 1}
    first = next(iter(made))
    pair = next(itertools.islice(iter(stream_of(prepared)), first["row"], None))
    assert CHATML.tokenizer.decode(first["chosen_ids"]) == f"{pair.chosen}<|im_end|>\n"


def test_numbers_and_origins_are_at_hand_by_place(tmp_path):
    rows = [row(n, w=n / 10) for n in range(6)]
    prepared = load_pairs(settings(written(tmp_path, rows), extras={"weight": "w"}))
    stream = stream_of(prepared)
    assert len(list(stream)) == 4
    assert stream.origin(2) == "rows.jsonl:5"
    assert stream.extras()["weight"][prepared.train.rows[[3, 0]]].tolist() == [0.5, 0.2]


def test_lists_of_answers_and_rows_that_end_in_drops_are_accounted_for(tmp_path):
    def listed(number: int, *scores: int) -> dict[str, object]:
        completions = [{"response": f"{score} {number}", "overall_score": score} for score in scores]
        return {"instruction": f"Question {number}?", "completions": completions}

    rows = [listed(0, 1, 2), listed(1, 1, 2, 3), listed(2, 4, 4), listed(3, 1, 2), listed(0, 1, 5)]
    chosen = {"dialect": "ranked", "pairing": "all", "test_size": 1}
    prepared = load_pairs(settings(written(tmp_path, rows), **chosen))
    assert len(list(stream_of(prepared))) == 4
    account = prepared.ledger.train
    assert account.dropped == {"no two answers that differ enough": 1, "prompt in the held-out split": 2}
    assert (account.read, account.more, account.kept) == (5, 2, 4)
