"""Files to pairs: lists, single answers, numbers and sources, each row of which the ledger accounts for."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from preftune.data import reading
from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, dialect: str = "auto", tokens: tuple[str, ...] = (), **choices: object) -> PreparedPairs:
    fields = {"name": "x", "source": "files", "path": str(path), "dialect": dialect, "test_size": 1}
    return load_pairs(DataSettings.model_validate(fields | choices), tokens)


def everything(prepared: PreparedPairs) -> list[PreferencePair]:
    made = [*prepared.train, *prepared.held_out]
    ledger = prepared.ledger.train
    assert len(made) == ledger.read + ledger.more - sum(ledger.dropped.values()) + len(prepared.held_out)
    assert ledger.kept == len(prepared.train)
    return sorted(made, key=lambda pair: (pair.prompt[-1]["content"], pair.origin))


def told(prepared: PreparedPairs) -> list[tuple[str, str, str, float]]:
    return [(p.origin, p.chosen, p.rejected, p.extras["score"]) for p in everything(prepared)]


def nectar(number: int) -> dict[str, object]:
    answers = [{"answer": f"{text} {number}", "rank": rank} for rank, text in enumerate("ABC", 1)]
    return {"prompt": f"\n\nHuman: {number}?\n\nAssistant: ", "answers": answers}


def rated_before(number: int) -> dict[str, object]:
    completions = [{"response": f"{score} {number}", "overall_score": score} for score in (2, 9, 5)]
    return {"instruction": f"{number}?", "completions": completions}


def test_the_best_and_the_worst_of_each_list_make_a_pair(tmp_path):
    assert told(load(write(tmp_path / "a.jsonl", [nectar(1), nectar(2)]))) == [
        ("a.jsonl:1", "A 1", "C 1", 2.0),
        ("a.jsonl:2", "A 2", "C 2", 2.0),
    ]
    assert told(load(write(tmp_path / "b.jsonl", [rated_before(1), rated_before(2)]))) == [
        ("b.jsonl:1", "9 1", "2 1", 7.0),
        ("b.jsonl:2", "9 2", "2 2", 7.0),
    ]


def test_all_pairs_of_each_list_above_the_gap_are_made_and_lists_without_one_are_counted(tmp_path):
    flat = {"instruction": "0?", "completions": [{"response": text, "overall_score": 5} for text in "xy"]}
    file = write(tmp_path / "a.jsonl", [rated_before(1), flat, rated_before(2)])
    prepared = load(file, pairing="all", pairing_gap=4)
    assert told(prepared) == [
        (f"a.jsonl:{row}#{n}", f"9 {number}", f"{score} {number}", 9.0 - score)
        for row, number in ((1, 1), (3, 2))
        for n, score in ((1, 5), (2, 2))
    ]
    ledger = prepared.ledger.train
    assert (ledger.read, ledger.more, ledger.kept) == (3, 2, 2)
    assert ledger.dropped["no two answers that differ enough"] == 1
    assert ledger.dialect == {"a.jsonl": "ranked"}


def far_apart(count: int) -> list[dict[str, object]]:
    """Answers to `count` prompts: all the good ones first, then all the bad ones, long enough for many chunks."""
    return [
        {"prompt": f"{number:04}?", "completion": f"{word} {number} " * 100, "label": word == "good"}
        for word in ("good", "bad")
        for number in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_to_one_prompt_meet_across_the_whole_file(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("preftune.data.workers.os.sched_getaffinity", lambda process: set(range(workers)))
    file = write(tmp_path / f"{workers}.jsonl", far_apart(700))
    assert file.stat().st_size > 4 * 2**18
    prepared = load(file)
    assert [origin for origin, *_ in told(prepared)] == [f"{workers}.jsonl:{n + 1}+{n + 701}" for n in range(700)]
    assert (prepared.ledger.train.read, prepared.ledger.train.more) == (1400, -700)


def test_ratings_of_a_csv_are_paired_and_answers_that_find_no_other_are_counted(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("prompt,response,helpfulness\n1?,a,4\n1?,b,1\n2?,alone,3\n3?,c,2\n3?,d,2\n4?,e,0.5\n4?,f,1.5\n")
    prepared = load(file, "rated", score="helpfulness")
    assert told(prepared) == [("a.csv:2+3", "a", "b", 3.0), ("a.csv:8+7", "f", "e", 1.0)]
    assert prepared.ledger.train.dropped["no two answers that differ enough"] == 3
    assert (prepared.ledger.train.read, prepared.ledger.train.more) == (7, -2)


def test_a_wrong_answer_is_told_by_its_own_row_and_leaves_the_others_to_its_prompt(tmp_path):
    rows = far_apart(3)
    rows.insert(1, {"prompt": "0000?", "completion": " ", "label": True})
    rows.append({"prompt": "0001?", "completion": "so <|end|>", "label": True})
    file = write(tmp_path / "a.jsonl", rows)
    faults = [
        "a.jsonl:2: completion must not be empty, got ' '",
        "a.jsonl:8: completion must hold no control token of the tokenizer, got '<|end|>' in 'so <|end|>'; "
        "data.control_tokens=escape breaks it up",
    ]
    with pytest.raises(Refusal) as refused:
        load(file, "labelled", ("<|end|>",))
    assert str(refused.value).splitlines()[1:] == [f"  {fault}" for fault in faults]
    prepared = load(file, "labelled", ("<|end|>",), on_bad_row="drop")
    assert [origin for origin, *_ in told(prepared)] == ["a.jsonl:1+5", "a.jsonl:3+6", "a.jsonl:4+7"]
    assert prepared.ledger.train.wrong == faults
    assert prepared.ledger.train.dropped["wrong: completion must not be empty"] == 1


def test_a_wrong_list_is_one_wrong_row(tmp_path):
    wrong = nectar(2) | {"answers": [{"answer": "x", "rank": 1}, {"answer": "", "rank": 2}, {"answer": " ", "rank": 3}]}
    file = write(tmp_path / "a.jsonl", [nectar(1), wrong, nectar(3)])
    with pytest.raises(Refusal) as refused:
        load(file, pairing="all")
    assert str(refused.value).splitlines()[1:] == [
        "  a.jsonl:2#1: rejected must not be empty, got ''",
        "  a.jsonl:2#2: rejected must not be empty, got ' '",
        "  a.jsonl:2#3: chosen must not be empty, got ''",
        "  a.jsonl:2#3: rejected must not be empty, got ' '",
    ]
    ledger = load(file, pairing="all", on_bad_row="drop").ledger.train
    assert (ledger.read, ledger.more, ledger.dropped["wrong: rejected must not be empty"]) == (3, 4, 1)


def test_a_colon_in_the_name_of_a_file_makes_no_kind_of_fault_of_each_row(tmp_path):
    rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "a" if n > 1 else "b"} for n in range(5)]
    ledger = load(write(tmp_path / "of: me.jsonl", rows), on_bad_row="drop").ledger.train
    assert ledger.dropped["wrong: chosen must differ from rejected"] == 3


def test_numbers_travel_with_their_pairs(tmp_path):
    rows = [
        {"prompt": f"{n}?", "chosen": "a", "rejected": "b", "w": n, "yes": n, "no": 4 - n, "gap": f"{n}.5"}
        for n in range(4)
    ]
    extras = {"weight": "w", "votes_chosen": "yes", "votes_rejected": "no"}
    prepared = load(write(tmp_path / "a.jsonl", rows), score="gap", extras=extras)
    pairs = everything(prepared)
    assert [pair.extras["probability"] for pair in pairs] == [0, 0.25, 0.5, 0.75]
    assert [pair.extras["score"] for pair in pairs] == [0.5, 1.5, 2.5, 3.5]
    columns = prepared.train.extras()
    assert sorted(columns) == ["probability", "score", "votes_chosen", "votes_rejected", "weight"]
    for name, column in columns.items():
        assert column.tolist() == [pair.extras[name] for pair in prepared.train]


def three_sources(tmp_path: Path) -> DataSettings:
    def rows(name: str, count: int) -> list[dict[str, object]]:
        return [{"prompt": f"{name} {n}?", "chosen": "a", "rejected": "b", "gap": str(n)} for n in range(count)]

    write(tmp_path / "a.jsonl", rows("a", 12))
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected", "gap"])
        writer.writeheader()
        writer.writerows(rows("b", 9))
    parquet.write_table(pa.Table.from_pylist(rows("c", 5)), tmp_path / "c.parquet")
    mix = [{"path": str(tmp_path / name)} for name in ("a.jsonl", "b.csv", "c.parquet")]
    mix[0]["weight"], mix[1]["score"] = 2, "gap"  # type: ignore[assignment]
    return DataSettings.model_validate({"name": "x", "source": "mix", "mix": mix, "test_size": 2})


def test_a_mix_reads_every_source_and_keeps_where_each_pair_came_from(tmp_path):
    prepared = load_pairs(three_sources(tmp_path))
    ledger = prepared.ledger.train
    assert ledger.read == 26
    assert list(ledger.dialect) == ["a.jsonl", "b.csv", "c.parquet"]
    # The scarcest source for its weight is c: 5 / (1/4) = 20 pairs; of a 10, of b 5. `a` would allow 24, `b` 36.
    assert ledger.dropped["beyond the weights of data.mix"] == 6
    sources = np.concatenate([prepared.train.sources(), prepared.held_out.sources()])
    assert np.bincount(sources).tolist() == [10, 5, 5]
    for place, pair in zip(prepared.train.sources().tolist(), prepared.train, strict=True):
        name = ("a.jsonl", "b.csv", "c.parquet")[place]
        assert pair.origin.startswith(f"{name}:")
        assert pair.prompt[0]["content"].startswith(name[0])
        assert pair.extras == ({"score": float(pair.prompt[0]["content"][2:-1])} if name == "b.csv" else {})
    scores = prepared.train.extras()["score"]
    assert np.isnan(scores).tolist() == (prepared.train.sources() != 1).tolist()


def test_a_wrong_row_of_a_mix_is_told_by_its_file(tmp_path):
    settings = three_sources(tmp_path)
    with (tmp_path / "b.csv").open("a") as file:
        file.write("b 9?,same,same,1\r\n")
    with pytest.raises(Refusal) as refused:
        load_pairs(settings)
    assert str(refused.value) == (
        "every row must be right, got 1 wrong of 10; mend or remove them, or set data.on_bad_row=drop:\n"
        "  b.csv:11: chosen must differ from rejected, got 'same' for both"
    )


def test_what_is_kept_of_a_source_is_read_once(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", [nectar(1), nectar(2)])
    first = told(load(file))
    monkeypatch.setattr(reading, "fitting", None)
    assert told(load(file, test_size=0.5, split_seed=3)) == first
