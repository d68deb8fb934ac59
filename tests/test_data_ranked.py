"""Answers with scores: how rows of them are read, and which pairs they make."""

import itertools

import pytest

from preftune.data.dialects import DIALECTS, rated
from preftune.data.ranked import RankedAnswers, grouped, pairs_of
from preftune.data.rows import Row, RowError

USER = {"role": "user", "content": "2 + 2?"}
SCORED = (("A", 5.0), ("B", 3.0), ("C", 3.0), ("D", 1.0))


def answers_of(*answers: tuple[str, float], origin: str = "rows.jsonl:12") -> RankedAnswers:
    return RankedAnswers((USER,), answers, origin)


def told(ranked: RankedAnswers, pairing: str = "best_worst", gap: float = 0) -> list[tuple[str, str, float, str]]:
    return [(pair.chosen, pair.rejected, pair.extras["score"], pair.origin) for pair in pairs_of(ranked, pairing, gap)]


def test_the_best_answer_is_paired_with_the_worst():
    (pair,) = pairs_of(answers_of(*SCORED), "best_worst", 0)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.origin) == ((USER,), "A", "D", "rows.jsonl:12")
    assert pair.extras == {"score": 4.0, "score_chosen": 5.0, "score_rejected": 1.0}


def test_all_pairs_that_differ_are_made_and_numbered():
    assert sorted(row[:3] for row in told(answers_of(*SCORED), "all")) == [
        ("A", "B", 2.0),
        ("A", "C", 2.0),
        ("A", "D", 4.0),
        ("B", "D", 2.0),
        ("C", "D", 2.0),
    ]
    assert [row[3] for row in told(answers_of(*SCORED), "all")] == [f"rows.jsonl:12#{n}" for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(("gap", "pairs"), [(2, 5), (2.5, 1), (4, 1), (4.5, 0)])
def test_the_gap_is_the_least_difference(gap, pairs):
    assert len(told(answers_of(*SCORED), "all", gap)) == pairs
    assert len(told(answers_of(*SCORED), gap=gap)) == min(pairs, 1)


@pytest.mark.parametrize("pairing", ["best_worst", "all"])
def test_the_order_of_the_answers_changes_no_pair(pairing):
    tied = (("A", 5.0), ("B", 5.0), ("C", 1.0), ("D", 1.0))
    found = {tuple(told(answers_of(*order), pairing)) for order in itertools.permutations(tied)}
    assert len(found) == 1
    # SHA-256 of A, B, C, D begins with 55, df, 6b, 3f.
    assert told(answers_of(*tied))[0][:2] == ("A", "C")


@pytest.mark.parametrize(
    ("answers", "pairs"),
    [
        ((("A", 5.0), ("A", 1.0)), []),
        ((("A", 5.0), ("B", 3.0), ("A", 1.0)), [("A", "B", 2.0)]),
        ((("A", 5.0), ("B", 4.0), ("A", 1.0)), [("B", "A", 3.0)]),
        ((("A", 2.0), ("B", 2.0)), []),
        ((("A", 2.0),), []),
        ((), []),
    ],
)
def test_an_answer_is_never_paired_with_its_own_text(answers, pairs):
    assert [row[:3] for row in told(answers_of(*answers))] == pairs


def test_all_pairs_leave_out_those_of_one_text():
    found = told(answers_of(("A", 5.0), ("B", 3.0), ("A", 1.0)), "all")
    assert [row[:3] for row in found] == [("A", "B", 2.0), ("B", "A", 2.0)]


def test_rows_with_the_same_prompt_are_joined_and_their_pairs_name_both():
    rows = [
        answers_of(("4", 1.0), origin="a.jsonl:3"),
        RankedAnswers(({"role": "user", "content": "Hi"},), (("Yo", 0.0),), "a.jsonl:4"),
        answers_of(("5", 0.0), origin="a.jsonl:9"),
        answers_of(("6", 0.5), origin="b.jsonl:1"),
    ]
    first, second = grouped(rows)
    assert (first.origin, first.answers) == ("a.jsonl:3", (("4", 1.0), ("5", 0.0), ("6", 0.5)))
    assert second == rows[1]
    assert told(first, "all") == [
        ("4", "6", 0.5, "a.jsonl:3+b.jsonl:1"),
        ("4", "5", 1.0, "a.jsonl:3+9"),
        ("6", "5", 0.5, "b.jsonl:1+a.jsonl:9"),
    ]


def read(dialect: str, **columns: object) -> RankedAnswers:
    return DIALECTS[dialect](Row("rows.jsonl:1", columns))


def test_nectar_ranks_its_answers_from_1():
    ranked = read(
        "ranked",
        prompt="\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2 + 2?\n\nAssistant: ",
        answers=[{"answer": "5", "model": "b", "rank": 2.0}, {"answer": "4", "model": "a", "rank": 1.0}],
        turns=2,
    )
    hello = {"role": "assistant", "content": "Hello"}
    assert ranked.prompt == ({"role": "user", "content": "Hi"}, hello, USER)
    assert ranked.answers == (("5", -2.0), ("4", -1.0))


@pytest.mark.parametrize("score", ["overall_score", "score"])
def test_ultrafeedback_as_it_was_rated(score):
    completions = [{"response": "4", score: 9.0, "critique": "Right."}, {"response": "5", score: 2}]
    ranked = read("ranked", instruction="2 + 2?", completions=completions)
    assert (ranked.prompt, ranked.answers) == ((USER,), (("4", 9.0), ("5", 2.0)))


def test_a_rated_row_is_one_answer_with_the_number_of_its_column():
    row = Row("rows.csv:2", {"prompt": "2 + 2?", "response": "4", "helpfulness": "4.5"})
    assert rated(row, "helpfulness") == RankedAnswers((USER,), (("4", 4.5),), "rows.csv:2")


@pytest.mark.parametrize(
    ("label", "score"), [(True, 1.0), (1, 1.0), ("true", 1.0), ("1", 1.0), (False, 0.0), (0, 0.0), ("False", 0.0)]
)
@pytest.mark.parametrize("messages", [True, False])
def test_a_labelled_row_is_one_answer(label, score, messages):
    completion = [{"role": "assistant", "content": "4"}] if messages else "4"
    ranked = read("labelled", prompt=[USER] if messages else "2 + 2?", completion=completion, label=label)
    assert (ranked.prompt, ranked.answers) == ((USER,), (("4", score),))


ANSWERS = [{"answer": "4", "rank": 1}, {"answer": "5", "rank": 2}]


@pytest.mark.parametrize(
    ("dialect", "columns", "fault"),
    [
        ("ranked", {"prompt": 2, "answers": ANSWERS}, "prompt must be text, got 2"),
        ("ranked", {"prompt": "a"}, "answers must be a list of answers, got null"),
        ("ranked", {"prompt": "a", "answers": []}, "answers must be a list of answers, got []"),
        (
            "ranked",
            {"prompt": "a", "answers": [*ANSWERS, "6"]},
            "answers[2] must be an answer with its rank, overall_score or score, got '6'",
        ),
        (
            "ranked",
            {"prompt": "a", "answers": [*ANSWERS, {"answer": "6"}]},
            "answers[2].rank must be a finite number, got null",
        ),
        (
            "ranked",
            {"prompt": "a", "completions": [{"response": 4, "score": 1}]},
            "completions[0].response must be text, got 4",
        ),
        ("rated", {"prompt": "a", "response": "4", "score": "good"}, "score must be a finite number, got 'good'"),
        ("rated", {"prompt": "a", "score": 1}, "response must be text, got null"),
        (
            "labelled",
            {"prompt": "a", "completion": "4", "label": "good"},
            "label must be true or false, or 1 or 0, got 'good'",
        ),
        ("labelled", {"prompt": "a", "completion": "4"}, "label must be true or false, or 1 or 0, got null"),
        ("labelled", {"prompt": "a", "label": 1}, "completion must be text, got null"),
    ],
)
def test_a_wrong_row_of_answers_is_told_by_its_field(dialect, columns, fault):
    with pytest.raises(RowError) as error:
        read(dialect, **columns)
    assert str(error.value) == fault
