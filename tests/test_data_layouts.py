"""`data.dialect: auto` takes rows for what they are, and says so."""

import pickle

import pytest

from preftune.data.dialects import DIALECTS
from preftune.data.layouts import FIRST, fitting, refuse_missing_columns
from preftune.data.rows import Row
from preftune.data.settings import SourceSettings
from preftune.refusals import Refusal

USER = {"role": "user", "content": "2 + 2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
BEST = {"role": "assistant", "content": "4"}
OTHER = {"role": "assistant", "content": "5"}
TEXT = {"chosen": "4", "rejected": "5"}
DIALOGUES = {"chosen": [SYSTEM, USER, BEST], "rejected": [SYSTEM, USER, OTHER]}
TRANSCRIPTS = {"chosen": "\n\nHuman: 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2?\n\nAssistant: 5"}
RANKED = {"chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}}
RENDERED = "<|im_start|>user\n2 + 2?<|im_end|>\n"


def rows_of(*columns: dict[str, object]) -> list[Row]:
    return [Row(f"rows.json:{number}", row) for number, row in enumerate(columns, start=1)]


def taking(rows: list[Row], dialect: str | None, name: str = "x", **choices: object) -> tuple[str, object]:
    return fitting(rows, SourceSettings.model_validate({"dialect": dialect, **choices}), name)


def refused(rows: list[Row], dialect: str | None, **choices: object) -> str:
    with pytest.raises(Refusal) as error:
        taking(rows, dialect, **choices)
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "taken", "same"),
    [
        ({"prompt": "2 + 2?", **TEXT}, "messages", "openhermes"),
        ({"prompt": [USER], **TEXT, "score": 1}, "messages", "openhermes"),
        ({"prompt": "2 + 2?", **DIALOGUES, "chosen-rating": 5.0}, "ultrafeedback", None),
        ({"prompt": RENDERED, **TEXT}, "openhermes", None),
        ({"question": "2 + 2?", **TEXT}, "openhermes", None),
        ({"system": "", "question": "2 + 2?", **TEXT}, "openhermes", "orca"),
        (DIALOGUES, "implicit", None),
        (TRANSCRIPTS, "hh_rlhf", None),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}], **RANKED}, "sharegpt", None),
        ({"prompt": "2 + 2?", "answers": [{"answer": "4", "rank": 1}, {"answer": "5", "rank": 2}]}, "ranked", None),
        ({"instruction": "2 + 2?", "completions": [{"response": "4", "overall_score": 9}]}, "ranked", None),
        ({"prompt": "2 + 2?", "completion": "4", "label": True}, "labelled", None),
    ],
)
def test_auto_takes_each_layout_for_what_it_is_and_says_so(row, taken, same, capsys):
    assert taking(rows_of(row), "auto", "owner/name[train]") == (taken, DIALECTS[taken])
    also = f" (read the same way by {same})" if same else ""
    assert capsys.readouterr().err == f"owner/name[train] is read as data.dialect={taken}{also}\n"


@pytest.mark.parametrize("dialect", ["auto", "rated"])
def test_ratings_are_read_from_the_column_that_data_score_names(dialect):
    rows = rows_of({"prompt": "2 + 2?", "response": "4", "helpfulness": "3.5", "correctness": 4})
    name, read = taking(rows, dialect, score="helpfulness")
    assert name == "rated"
    assert pickle.loads(pickle.dumps(read))(rows[0]).answers == (("4", 3.5),)


@pytest.mark.parametrize("score", [None, ["helpfulness", "correctness"]])
def test_auto_takes_no_rows_for_ratings_whose_one_column_is_not_named(score):
    sentence = refused(rows_of({"prompt": "2 + 2?", "response": "4", "helpfulness": 3}), "auto", score=score)
    assert "\n  rated: needs data.score, the one column of the rating\n" in sentence


def test_auto_refuses_rows_that_hold_a_pair_and_a_labelled_answer():
    rows = rows_of({"prompt": "2 + 2?", **TEXT, "completion": "4", "label": True})
    assert refused(rows, "auto").startswith(
        "data.dialect=auto must fit one layout, got x with the columns chosen, completion, label, prompt, rejected, "
        "which messages and labelled read differently, first at rows.json:1; set data.dialect to one of them;"
    )


RATED = {"prompt": "2 + 2?", "response": "4", "a": 1, "b": 2}
LABELLED = {"prompt": "2 + 2?", "completion": "4", "label": True}


@pytest.mark.parametrize(
    ("row", "dialect", "choices", "sentence"),
    [
        (LABELLED, None, {}, "data.dialect must name the layout of the rows, got null"),
        (
            RATED,
            "rated",
            {},
            "data.score must name the one column of the rating where data.dialect is rated, got null",
        ),
        (
            RATED,
            "rated",
            {"score": ["a", "b"]},
            "data.score must name the one column of the rating where data.dialect is rated, got ['a', 'b']",
        ),
        (
            LABELLED,
            "labelled",
            {"score": "label"},
            "data.score must be null where data.dialect is labelled, whose answers bring their own, got 'label'",
        ),
        (
            RATED,
            "rated",
            {"score": "a", "extras": {"weight": "b"}},
            "data.extras.weight must be null where data.dialect is rated, whose rows hold answers and no pair, got 'b'",
        ),
        (
            RATED,
            "labelled",
            {},
            "x must have the columns prompt, completion, label for data.dialect=labelled, got a, b, prompt, response; "
            "choose the dialect that fits: messages, ultrafeedback, openhermes, implicit, hh_rlhf, orca, sharegpt, "
            "ranked, rated, labelled",
        ),
    ],
)
def test_settings_that_do_not_suit_the_rows(row, dialect, choices, sentence):
    assert refused(rows_of(row), dialect, **choices) == sentence


def test_columns_of_numbers_that_are_not_there_are_told_by_their_settings():
    settings = SourceSettings.model_validate(
        {"dialect": "messages", "score": ["a", "b"], "extras": {"weight": "w", "probability": "p"}}
    )
    with pytest.raises(Refusal) as error:
        refuse_missing_columns({"b", "p", "prompt"}, settings, "x")
    assert str(error.value) == (
        "data.score must name columns of x, got a; its columns are b, p, prompt, and data.score=null reads none\n"
        "data.extras.weight must name columns of x, got w; its columns are b, p, prompt, and data.extras.weight=null "
        "reads none"
    )


def test_of_dialects_that_agree_auto_takes_the_one_that_reads_more_rows():
    plain = {"prompt": "2 + 2?", **TEXT}
    assert taking(rows_of(plain, plain, {"prompt": RENDERED, **TEXT}), "auto")[0] == "openhermes"


def test_auto_looks_at_the_first_rows_alone():
    plain = {"prompt": "2 + 2?", **TEXT}
    rows = rows_of(*[plain] * FIRST, {"prompt": RENDERED, **TEXT})
    assert taking(rows, "auto")[0] == "messages"


def test_columns_by_other_names_are_read_as_messages():
    names = {"prompt": "question", "chosen": "best", "rejected": "worst", "system": "rules"}
    row = {"rules": "Be brief.", "question": "2 + 2?", "best": "4", "worst": [USER, OTHER], "prompt": "not this"}
    name, read = taking(rows_of(row), "auto", columns=names)
    pair = read(rows_of(row)[0])
    assert (name, pair.prompt, pair.chosen, pair.rejected) == ("messages", (SYSTEM, USER), "4", "5")


def test_a_dialect_that_is_named_is_taken_in_silence(capsys):
    assert taking(rows_of({"prompt": "2 + 2?", **TEXT}), "openhermes") == ("openhermes", DIALECTS["openhermes"])
    assert capsys.readouterr().err == ""
