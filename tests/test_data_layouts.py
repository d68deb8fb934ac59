"""`data.dialect: auto` takes rows for what they are, and says so."""

import pytest

from preftune.data.dialects import DIALECTS
from preftune.data.layouts import FIRST, fitting
from preftune.data.rows import Row
from preftune.data.settings import ColumnSettings

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
    ],
)
def test_auto_takes_each_layout_for_what_it_is_and_says_so(row, taken, same, capsys):
    assert fitting(rows_of(row), "auto", "owner/name[train]") is DIALECTS[taken]
    also = f" (read the same way by {same})" if same else ""
    assert capsys.readouterr().err == f"owner/name[train] is read as data.dialect={taken}{also}\n"


def test_of_dialects_that_agree_auto_takes_the_one_that_reads_more_rows():
    plain = {"prompt": "2 + 2?", **TEXT}
    assert fitting(rows_of(plain, plain, {"prompt": RENDERED, **TEXT}), "auto", "x") is DIALECTS["openhermes"]


def test_auto_looks_at_the_first_rows_alone():
    plain = {"prompt": "2 + 2?", **TEXT}
    rows = rows_of(*[plain] * FIRST, {"prompt": RENDERED, **TEXT})
    assert fitting(rows, "auto", "x") is DIALECTS["messages"]


def test_columns_by_other_names_are_read_as_messages():
    names = ColumnSettings(prompt="question", chosen="best", rejected="worst", system="rules")
    row = {"rules": "Be brief.", "question": "2 + 2?", "best": "4", "worst": [USER, OTHER], "prompt": "not this"}
    pair = fitting(rows_of(row), "auto", "x", names)(rows_of(row)[0])
    assert (pair.prompt, pair.chosen, pair.rejected) == ((SYSTEM, USER), "4", "5")


def test_a_dialect_that_is_named_is_taken_in_silence(capsys):
    assert fitting(rows_of({"prompt": "2 + 2?", **TEXT}), "openhermes", "x") is DIALECTS["openhermes"]
    assert capsys.readouterr().err == ""
