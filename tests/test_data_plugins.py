"""A dialect of the user's own, by dotted path, and the sentences that it gets."""

import pickle
import sys

import pytest

from preftune.data.layouts import fitting
from preftune.data.plugins import plugin
from preftune.data.rows import Row, RowError
from preftune.data.settings import SourceSettings
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal

ROW = Row("rows.jsonl:7", {"q": "2 + 2?", "good": "4", "bad": "5"})
MODULE = """
from preftune.data.rows import RowError
from preftune.pairs import PreferencePair

TABLE = {}

def reads(row):
    prompt = ({"role": "user", "content": row.columns["q"]},)
    return PreferencePair(prompt, row.columns["good"], row.columns["bad"], "mine", row.columns.get("extras", {"w": 2}))

def lists(row):
    return [row]

def refuses(row):
    raise RowError("q must be short, got long")

def names(row, columns):
    return row
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_dialects.py").write_text(MODULE)
    (tmp_path / "broken_dialects.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # put back what the import adds


def test_a_function_of_the_working_directory_reads_rows_and_keeps_its_numbers():
    name, read = fitting([ROW], SourceSettings(dialect="own_dialects.reads"), "x")
    assert name == "own_dialects.reads"
    prompt = ({"role": "user", "content": "2 + 2?"},)
    assert pickle.loads(pickle.dumps(read))(ROW) == PreferencePair(prompt, "4", "5", "rows.jsonl:7", {"w": 2.0})


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "no_such.reads",
            "data.dialect must name a function of a module that can be imported, got 'no_such.reads', whose module "
            "gives ModuleNotFoundError: No module named 'no_such'; it is looked for in the working directory and "
            "among what is installed",
        ),
        (
            "broken_dialects.reads",
            "data.dialect must name a function of a module that can be imported, got 'broken_dialects.reads', whose "
            "module gives ZeroDivisionError: division by zero; it is looked for in the working directory and among "
            "what is installed",
        ),
        (
            "own_dialects.raeds",
            "data.dialect must name a function of own_dialects, got 'raeds'; did you mean reads?",
        ),
        ("own_dialects.TABLE", "data.dialect must name a function, got 'own_dialects.TABLE', a value of type dict"),
        (
            "own_dialects.names",
            "data.dialect must take one row as its only argument, got own_dialects.names(row, columns): missing a "
            "required argument: 'columns'",
        ),
    ],
)
def test_a_path_that_names_no_dialect(path, sentence):
    with pytest.raises(Refusal) as error:
        plugin(path)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("lists", {}, "row must be made a PreferencePair by own_dialects.lists, got a value of type list"),
        ("refuses", {}, "q must be short, got long"),
        ("reads", {"q": None}, "prompt[0].content must be text, got null"),
        ("reads", {"bad": 5}, "rejected must be text, got 5"),
        ("reads", {"bad": "a\ud83d"}, "pair must be valid Unicode, got half of a surrogate pair, '\\ud83d'"),
        ("reads", {"bad": "a\0b"}, "pair must hold no NUL character, got 'a\\x00b'"),
        ("reads", {"extras": 3}, "extras must be numbers by name, got 3"),
        ("reads", {"extras": {"w": float("inf")}}, "extras must be finite numbers by name, got {'w': inf}"),
        ("reads", {"extras": {"w": "2"}}, "extras must be finite numbers by name, got {'w': '2'}"),
        ("reads", {"extras": {"w": True}}, "extras must be finite numbers by name, got {'w': True}"),
    ],
)
def test_what_a_dialect_of_ones_own_may_not_return(name, change, fault):
    with pytest.raises(RowError) as error:
        plugin(f"own_dialects.{name}")(Row("x:1", {**ROW.columns, **change}))
    assert str(error.value) == fault


def test_a_row_on_which_ones_own_code_fails_is_a_wrong_row():
    with pytest.raises(RowError) as error:
        plugin("own_dialects.reads")(Row("x:1", {}))
    assert str(error.value) == "row must be read by own_dialects.reads, got KeyError: 'q'"
