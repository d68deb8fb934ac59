"""What bad files and bad rows get: a sentence with file, row and field, and nothing trained."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet
from pydantic import ValidationError

from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings
from preftune.refusals import Refusal

GOOD = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
USER = {"role": "user", "content": "2 + 2?"}
BEST = {"role": "assistant", "content": "4"}
ORCA = {"system": "", "question": "2 + 2?", "chosen": "4", "rejected": "5"}
FEEDBACK = {"prompt": "2 + 2?", "chosen": [USER, BEST], "rejected": [USER, {**BEST, "content": "5"}]}
IMPLICIT = {"chosen": [USER, BEST], "rejected": [USER, {**BEST, "content": "5"}]}
GPT = {"from": "gpt", "value": "4"}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "2 + 2?"}],
    "chosen": GPT,
    "rejected": {**GPT, "value": "5"},
}
HH = {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"}


def refusal(path: Path, dialect: str = "messages", **choices: object) -> str:
    settings = DataSettings.model_validate(
        {"name": "x", "source": "files", "path": str(path), "dialect": dialect, "test_size": 0.5, **choices}
    )
    with pytest.raises(Refusal) as refused:
        load_pairs(settings)
    return str(refused.value)


def refusal_of_bytes(tmp_path: Path, name: str, content: bytes) -> str:
    file = tmp_path / name
    file.write_bytes(content)
    return refusal(file)


def refusal_of_rows(tmp_path: Path, rows: list[object], dialect: str = "messages", **choices: object) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return refusal(file, dialect, **choices)


def test_a_missing_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert refusal(path) == f"data.path must name a file that exists, got '{path}'"


@pytest.mark.parametrize(("held", "pattern"), [([], "*.jsonl"), (["a.csv", "b.csv", "c.jsonl", "d.txt"], "*.csv")])
def test_a_directory_that_is_no_saved_data_set(tmp_path, held, pattern):
    for name in held:
        (tmp_path / name).touch()
    assert refusal(tmp_path) == (
        f"data.path must name a file, a glob or a saved data set, got the directory '{tmp_path}'; for the files in it "
        f"set data.path='{tmp_path}/{pattern}'"
    )


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    assert refusal(tmp_path / "rows.jsonl") == f"data.path must name a file, got '{tmp_path}/rows.jsonl', which is none"


def test_a_file_name_too_long_to_be_one():
    assert refusal(Path("a" * 5000)) == f"data.path must name a file that exists, got '{'a' * 5000}'"


def test_a_glob_that_matches_nothing(tmp_path):
    assert refusal(tmp_path / "part-*.jsonl") == (
        f"data.path must match at least one file, got '{tmp_path}/part-*.jsonl', which matches none"
    )


def test_a_glob_over_files_of_several_kinds(tmp_path):
    for name in ("a.jsonl", "b.csv", "c.JSONL"):
        (tmp_path / name).touch()
    assert refusal(tmp_path / "*") == f"data.path must match files of one kind, got .csv, .jsonl for '{tmp_path}/*'"
    (tmp_path / "d.txt").touch()
    assert refusal(tmp_path / "*") == (
        f"data.path must end in .json, .jsonl, .csv, .parquet, got '{tmp_path}/*', which matches .txt"
    )


def test_an_empty_file_among_those_of_a_glob(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "b.jsonl").touch()
    assert refusal(tmp_path / "*.jsonl") == "b.jsonl must hold at least one row, got an empty file"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_the_system_does_not_give(tmp_path, monkeypatch, error):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD))

    opened = Path.open

    def closed(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == file:
            raise error
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", closed)
    assert (
        refusal(file)
        == {
            13: f"data.path must name a file that may be read, got '{file}'",
            5: f"data.path must name a file that can be read, got Input/output error for '{file}'",
        }[error.errno]
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.jsonl", b"", "rows.jsonl must hold at least one row, got an empty file"),
        ("rows.jsonl", b"\n \n", "rows.jsonl must hold at least one row, got none"),
        ("rows.json", b"[]", "rows.json must hold at least one row, got none"),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n\n{"prompt": "b", "chosen": \n{"prompt": "c"}\n',
            "rows.jsonl:3: must be JSON, got a fault at column 27: Expecting value",
        ),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n{"prompt": "cut in the mid',
            "rows.jsonl:2: must be JSON, got a fault at column 12: Unterminated string starting at",
        ),
        (
            "rows.json",
            b'[\n {"prompt": "a"},\n {"prompt" "b"}\n]',
            "rows.json:3: must be JSON, got a fault at column 12: Expecting ':' delimiter",
        ),
        (
            "rows.json",
            b'{"prompt": "a"}\n{"prompt": "b"}\n',
            "rows.json:2: must be JSON, got a fault at column 1: Extra data; "
            "a file with one object a line is called .jsonl",
        ),
        (
            "rows.json",
            b'{"train": []}',
            "rows.json must hold a list of objects, got an object; a file with one object a line is called .jsonl",
        ),
        ("rows.json", b'[{"prompt": "a"}, 3]', "rows.json:2: row must be an object, got the number 3"),
        ("rows.jsonl", b'{"prompt": "a"}\n["b"]\n', "rows.jsonl:2: row must be an object, got a list"),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n{"prompt": "a", "chosen": "\\ud83d!"}\n',
            "rows.jsonl:2: chosen must be valid Unicode, got half of a surrogate pair, '\\ud83d'",
        ),
        (
            "rows.json",
            b'[{"prompt": "a"}, {"rejected": [{"content": "\\uDE00"}]}]',
            "rows.json:2: rejected must be valid Unicode, got half of a surrogate pair, '\\ude00'",
        ),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n{"prompt": "\xff"}\n',
            "rows.jsonl:2: must be UTF-8, got 0xff as byte 13 of the line",
        ),
        (
            "rows.json",
            b'[{"prompt": "a"},\n{"prompt": "\xed\xa0\xbd"}]',
            "rows.json:2: must be UTF-8, got 0xed as byte 13 of the line",
        ),
        (
            "rows.jsonl",
            b'{"prompt": "b", "chosen": \n{"prompt": "\xff"}\n',
            "rows.jsonl:1: must be JSON, got a fault at column 27: Expecting value",
        ),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n{"prompt": "a", "chosen": "four\\u0000 apples"}\n',
            "rows.jsonl:2: chosen must hold no NUL character, got 'four\\x00 apples'",
        ),
        (
            "rows.json",
            b'[{"prompt": [{"content": "\\u0000"}]}]',
            "rows.json:1: prompt must hold no NUL character, got '\\x00'",
        ),
        (
            "rows.jsonl",
            b'{"a\\ud83d": 1}',
            "rows.jsonl:1: a\\ud83d must be valid Unicode, got half of a surrogate pair, '\\ud83d'",
        ),
        (
            "rows.jsonl",
            b'{"prompt": "a\0"}',
            "rows.jsonl:1: must be JSON, got a fault at column 14: Invalid control character at",
        ),
        (
            "rows.jsonl",
            gzip.compress(b"{}", mtime=0),
            "rows.jsonl must be a .jsonl file, got a gzip file; unpack it first",
        ),
        ("rows.jsonl", b"\0" * 9, "rows.jsonl:1: must be JSON, got a fault at column 1: Expecting value"),
        ("rows.txt", b"a", "data.path must end in .json, .jsonl, .csv, .parquet, got '{path}'"),
        ("rows.csv", b"", "rows.csv must hold at least one row, got an empty file"),
        ("rows.csv", b"prompt,chosen,rejected\n", "rows.csv must hold at least one row, got none"),
        ("rows.csv", b"prompt,,rejected\n", "rows.csv:1: every column must have a name, got none for column 2"),
        ("rows.csv", b"\na,b,a\n", "rows.csv:2: the names of columns must differ, got 'a' for two"),
        (
            "rows.csv",
            b'a,b\n"1\n",2\n\n1,2,3\n',
            "rows.csv:5: row must have 2 fields, one for each column, got 3; "
            "text that holds a comma, a quote or a line break is put in quotes, and a quote in it doubled",
        ),
        ("rows.csv", b'a,b\n1,2\n"1"0,2\n', "rows.csv:3: must be CSV, got a fault: ',' expected after '\"'"),
        ("rows.csv", b'a,b\n"1,2\n3,4\n', "rows.csv:2: must be CSV, got a fault: unexpected end of data"),
        ("rows.csv", b"a,b\n1,2\n3,\0\n", "rows.csv:3: must hold no NUL byte, got one as byte 3 of the line"),
        ("rows.csv", b"a,b\n1,\xe9\n", "rows.csv:2: must be UTF-8, got 0xe9 as byte 3 of the line"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, sentence):
    assert refusal_of_bytes(tmp_path, name, content) == sentence.replace("{path}", str(tmp_path / name))


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' + b"1" * 5_000 + b"}"])
def test_json_beyond_what_can_be_read(tmp_path, content):
    sentence = refusal_of_bytes(tmp_path, "rows.jsonl", content)
    assert sentence.startswith("rows.jsonl:1: must be JSON that can be read, got a fault: ")


def test_a_broken_parquet_file(tmp_path):
    sentence = refusal_of_bytes(tmp_path, "rows.parquet", b"PAR1 and no more")
    assert sentence.startswith("rows.parquet must be a parquet file that can be read, got a fault after row 0: ")


def saved(tmp_path: Path, rows: int = 4) -> Path:
    Dataset.from_list([GOOD] * rows).save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved"


def test_a_parquet_file_that_is_cut(tmp_path):
    file = tmp_path / "rows.parquet"
    Dataset.from_list([GOOD]).to_parquet(file)
    sentence = refusal_of_bytes(tmp_path, "rows.parquet", file.read_bytes()[:-9])
    assert sentence.startswith("rows.parquet must be a parquet file that can be read, got a fault after row 0: ")


def test_a_parquet_file_with_a_hole(tmp_path):
    file = tmp_path / "rows.parquet"
    table = pa.table({name: [f"{name} {n:09}" * 9 for n in range(3000)] for name in ("prompt", "chosen", "rejected")})
    parquet.write_table(table, file, row_group_size=1000, use_dictionary=False)
    raw = bytearray(file.read_bytes())
    third = parquet.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    raw[third : third + 200] = bytes([255] * 200)
    sentence = refusal_of_bytes(tmp_path, "rows.parquet", bytes(raw))
    assert sentence.startswith("rows.parquet must be a parquet file that can be read, got a fault after row 2000: ")


def test_two_columns_of_a_table_with_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["chosen", "chosen"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == "rows.parquet: the names of columns must differ, got 'chosen' for two"


def test_text_of_a_table_that_is_no_text(tmp_path):
    broken = pa.array([b"a", b"b", b"\xff"]).view(pa.string())
    parquet.write_table(pa.table({"prompt": broken}), tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == (
        "rows.parquet:3: row must hold values that can be read, got a fault: "
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    )
    parquet.write_table(pa.table({"prompt": ["a", "b\0"]}), tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == "rows.parquet:2: prompt must hold no NUL character, got 'b\\x00'"


def test_a_saved_data_set_with_a_file_missing(tmp_path):
    directory = saved(tmp_path)
    (directory / "data-00001-of-00002.arrow").unlink()
    assert refusal(directory) == (
        "saved must hold the files that its state.json lists, got no data-00001-of-00002.arrow; copy or save it again"
    )


@pytest.mark.parametrize(("left", "row"), [(-300, 2), (100, 2), (0, 2)])
def test_a_saved_data_set_with_a_file_cut(tmp_path, left, row):
    directory = saved(tmp_path)
    file = directory / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:left])
    assert refusal(directory).startswith(
        f"saved must hold Arrow files that can be read, got a fault in {file.name} after row {row}: "
    )


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            "{}",
            "saved/state.json must list the files of a saved data set, got none; save it again with save_to_disk",
        ),
        ('{"_data', "saved/state.json:1: must be JSON, got a fault at column 2: Unterminated string starting at"),
        ("[]", "saved/state.json must hold an object, got a list"),
    ],
)
def test_a_saved_data_set_whose_state_is_broken(tmp_path, state, sentence):
    directory = saved(tmp_path)
    (directory / "state.json").write_text(state)
    assert refusal(directory) == sentence


def test_a_split_that_a_saved_data_set_does_not_have(tmp_path):
    rows = Dataset.from_list([GOOD])
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert refusal(tmp_path / "saved", split="trane") == (
        "data.split must be a split of saved, got 'trane'; it has test, train"
    )


ROW_FAULTS = [
    # text
    ("messages", GOOD, {"chosen": 3}, "chosen must be text, got 3"),
    ("messages", GOOD, {"chosen": None}, "chosen must be text, got null"),
    ("messages", GOOD, {"prompt": True}, "prompt must be text, got True"),
    ("messages", GOOD, {"rejected": float("nan")}, "rejected must be text, got nan"),
    (
        "messages",
        GOOD,
        {"prompt": "<|im_start|>user\nHi<|im_end|>\n"},
        "prompt must be text that no chat template has rendered, got '<|im_start|>user\\nHi<|im_end|>\\n'; "
        "data.dialect=openhermes reads ChatML, Llama-3, Mistral and Zephyr",
    ),
    *(
        (
            "messages",
            GOOD,
            {"chosen": text},
            f"chosen must be text that no chat template has rendered, got {text!r}; "
            "data.dialect=openhermes reads ChatML, Llama-3, Mistral and Zephyr",
        )
        for text in (
            "4<|im_end|>\n",
            "4<|eot_id|>",
            "4</s>",
            "<s>4</s>",
            "4<|eot_id|><|end_of_text|>",
            "<s>[INST] Hi [/INST]",
            "[INST] Hi [/INST]",
            "<|user|>\n4",
        )
    ),
    *(
        (
            "messages",
            GOOD,
            {"rejected": text},
            f"rejected must be text, got messages as text, {text!r}; "
            "give them as a list, which JSON lines and parquet hold and CSV does not",
        )
        for text in (
            '[{"role": "user", "content": "Hi"}]',
            "[{'from': 'human', 'value': 'Hi'}]",
            " [ {'content': 'Hi',\n 'role': 'user'}]",
            '{"role": "assistant", "content": "5"}',
        )
    ),
    (
        "implicit",
        IMPLICIT,
        {"chosen": '[{"role": "user", "content": "Hi"}]'},
        'chosen must be a list of messages, got messages as text, \'[{"role": "user", "content": "Hi"}]\'; '
        "give them as a list, which JSON lines and parquet hold and CSV does not",
    ),
    # messages
    ("messages", GOOD, {"prompt": []}, "prompt must hold at least one message, got none"),
    ("messages", GOOD, {"prompt": ["Hi"]}, "prompt[0] must be a message, got 'Hi'"),
    (
        "messages",
        GOOD,
        {"prompt": [{"role": "tool", "content": "Hi"}]},
        "prompt[0].role must be one of system, user, human, assistant, gpt, got 'tool'",
    ),
    ("messages", GOOD, {"prompt": [{"role": "user"}]}, "prompt[0].content must be text, got null"),
    ("messages", GOOD, {"chosen": [USER]}, "chosen must end with the assistant's turn, got 'user'"),
    (
        "messages",
        GOOD,
        {"chosen": [{"role": "user", "content": "1?"}, BEST]},
        "chosen must repeat the prompt before its answer, got [{'role': 'user', 'content': '1?'}]",
    ),
    # sense
    ("messages", GOOD, {"chosen": " \n"}, "chosen must not be empty, got ' \\n'"),
    ("messages", GOOD, {"chosen": "5"}, "chosen must differ from rejected, got '5' for both"),
    ("messages", GOOD, {"prompt": [BEST]}, "prompt must end with the user's turn, got 'assistant'"),
    ("messages", GOOD, {"prompt": " "}, "prompt[0].content must not be empty, got ' '"),
    # layouts
    ("ultrafeedback", FEEDBACK, {"chosen": "4"}, "chosen must be a list of messages, got '4'"),
    (
        "ultrafeedback",
        FEEDBACK,
        {"prompt": "1?"},
        "chosen must hold the user's turn that prompt repeats, got [{'role': 'user', 'content': '2 + 2?'}]",
    ),
    (
        "ultrafeedback",
        FEEDBACK,
        {"rejected": [{"role": "user", "content": "1?"}, BEST]},
        "rejected must repeat the prompt before its answer, got [{'role': 'user', 'content': '1?'}]",
    ),
    (
        "openhermes",
        ORCA,
        {"system": "A", "question": "<|im_start|>system\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>"},
        "system must be the system turn that the prompt begins with, got 'A'",
    ),
    (
        "openhermes",
        ORCA,
        {"system": "<|im_start|>user\nB<|im_end|>"},
        "system must be text or one system turn, got [{'role': 'user', 'content': 'B'}]",
    ),
    ("orca", ORCA, {"question": ["2 + 2?"]}, "question must be text, got ['2 + 2?']"),
    ("orca", ORCA, {"system": 1}, "system must be text, got 1"),
    (
        "sharegpt",
        SHAREGPT,
        {"conversations": [{"from": "function", "value": "2"}]},
        "conversations[0].from must be one of system, user, human, assistant, gpt, got 'function'",
    ),
    (
        "sharegpt",
        SHAREGPT,
        {"chosen": {"from": "human", "value": "4"}},
        "chosen must end with the assistant's turn, got 'user'",
    ),
    (
        "implicit",
        IMPLICIT,
        {"chosen": [BEST]},
        "chosen and rejected must begin with the same turns up to one of the user's, "
        "got [{'role': 'assistant', 'content': '4'}] and [{'role': 'user', 'content': '2 + 2?'}, {'role': 'assista...",
    ),
    (
        "implicit",
        IMPLICIT,
        {"chosen": [USER, BEST, {"role": "user", "content": "Sure?"}, BEST]},
        "chosen must end with one assistant's turn after the shared turns, got assistant, user, assistant",
    ),
    (
        "implicit",
        IMPLICIT,
        {"rejected": [USER]},
        "rejected must end with one assistant's turn after the shared turns, got none",
    ),
    (
        "hh_rlhf",
        HH,
        {"rejected": "Human: 2"},
        "chosen and rejected must begin with the same turns up to an '\\n\\nAssistant:', "
        "got '\\n\\nHuman: 2 + 2?\\n\\nAssistant: 4' and 'Human: 2'",
    ),
    (
        "hh_rlhf",
        HH,
        {"chosen": HH["chosen"] + "\n\nHuman: Why?\n\nAssistant: So"},
        "chosen must end with one answer after the shared turns, got another 'Human' turn",
    ),
    (
        "hh_rlhf",
        HH,
        {"chosen": "Hi\n\nAssistant: 4", "rejected": "Hi\n\nAssistant: 5"},
        "chosen must begin with '\\n\\nHuman:', got 'Hi'",
    ),
]


@pytest.mark.parametrize(("dialect", "good", "change", "fault"), ROW_FAULTS)
def test_a_wrong_row_is_told_by_file_row_and_field(tmp_path, dialect, good, change, fault):
    sentence = refusal_of_rows(tmp_path, [good, {**good, **change}], dialect)
    assert sentence == (
        "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
        f"  rows.jsonl:2: {fault}"
    )


def test_the_first_five_faults_are_shown_and_the_others_counted(tmp_path):
    rows = [
        GOOD,
        *({**GOOD, "chosen": number} for number in range(6)),
        {**GOOD, "chosen": "", "rejected": ""},
    ]
    # The last row has three faults: chosen is empty, rejected is empty, and the two are equal.
    assert refusal_of_rows(tmp_path, rows) == (
        "every row must be right, got 7 wrong of 8; mend or remove them, or set data.on_bad_row=drop:\n"
        "  rows.jsonl:2: chosen must be text, got 0\n"
        "  rows.jsonl:3: chosen must be text, got 1\n"
        "  rows.jsonl:4: chosen must be text, got 2\n"
        "  rows.jsonl:5: chosen must be text, got 3\n"
        "  rows.jsonl:6: chosen must be text, got 4\n"
        "  and 4 more"
    )


def test_a_column_that_is_missing_in_one_row_alone(tmp_path):
    assert refusal_of_rows(tmp_path, [GOOD, {"prompt": "2 + 2?", "chosen": "4"}]) == (
        "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
        "  rows.jsonl:2: rejected must be text, got null"
    )


EXTRAS = {"probability": "p", "weight": "w"}
VOTES = {"votes_chosen": "yes", "votes_rejected": "no"}


@pytest.mark.parametrize(
    ("extras", "good", "change", "fault"),
    [
        (EXTRAS, {"p": 0.7, "w": 1}, {"p": 1.5}, "p must be a number from 0 to 1, got 1.5"),
        (EXTRAS, {"p": 0.7, "w": 1}, {"p": -0.1}, "p must be a number of at least 0, got -0.1"),
        (EXTRAS, {"p": 0.7, "w": 1}, {"p": None}, "p must be a finite number, got null"),
        (EXTRAS, {"p": 0.7, "w": 1}, {"w": -1}, "w must be a number of at least 0, got -1"),
        (EXTRAS, {"p": 0.7, "w": 1}, {"w": "much"}, "w must be a finite number, got 'much'"),
        (VOTES, {"yes": 3, "no": 1}, {"no": -1}, "no must be a number of at least 0, got -1"),
        (VOTES, {"yes": 3, "no": 1}, {"yes": 0, "no": 0}, "yes and no must hold a vote, got 0 and 0"),
    ],
)
def test_numbers_of_a_pair_outside_their_range(tmp_path, extras, good, change, fault):
    rows = [{**GOOD, **good}, {**GOOD, **good, **change}]
    assert refusal_of_rows(tmp_path, rows, extras=extras) == (
        "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
        f"  rows.jsonl:2: {fault}"
    )


@pytest.mark.parametrize("score", [None, "high", "1_0", "9" * 65, 10**400, True, float("nan"), float("inf")])
def test_a_score_that_is_no_finite_number(tmp_path, score):
    rows = [{**GOOD, "gap": 1}, {**GOOD, "gap": score}]
    shown = "null" if score is None else repr(score) if len(repr(score)) <= 60 else f"{score!r:.57}..."
    assert refusal_of_rows(tmp_path, rows, score="gap") == (
        "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
        f"  rows.jsonl:2: gap must be a finite number, got {shown}"
    )


def test_columns_that_do_not_fit_the_dialect(tmp_path):
    assert refusal_of_rows(tmp_path, [{"instruction": "2?", "output": "4"}], "openhermes") == (
        "rows.jsonl must have the columns question or prompt or input, chosen, rejected for "
        "data.dialect=openhermes, got instruction, output; choose the dialect that fits: "
        "messages, ultrafeedback, openhermes, implicit, hh_rlhf, orca, sharegpt, ranked, rated, labelled"
    )


def test_a_score_column_that_is_not_there(tmp_path):
    rows = [{**GOOD, "score_chosen": 1}]
    assert refusal_of_rows(tmp_path, rows, score=["score_chosen", "score_rejected"]) == (
        "data.score must name columns of rows.jsonl, got score_rejected; its columns are chosen, prompt, "
        "rejected, score_chosen, and data.score=null reads none"
    )


def prepared(path: Path, **choices: object) -> PreparedPairs:
    fields = {"name": "x", "source": "files", "path": str(path), "dialect": "messages", "test_size": 0.5}
    return load_pairs(DataSettings.model_validate(fields | choices))


def mixed(tmp_path: Path) -> Path:
    """Five rows: two right, an empty answer, equal answers, and a number for a prompt."""
    rows = [GOOD, {**GOOD, "chosen": " "}, {**GOOD, "prompt": "3?"}, {**GOOD, "chosen": "5"}, {**GOOD, "prompt": 3}]
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_wrong_rows_are_dropped_and_counted_by_what_is_wrong_where_asked(tmp_path):
    ledger = prepared(mixed(tmp_path), on_bad_row="drop").ledger.train
    assert ledger.read == 5
    assert {reason: count for reason, count in ledger.dropped.items() if reason.startswith("wrong")} == {
        "wrong: chosen must not be empty": 1,
        "wrong: chosen must differ from rejected": 1,
        "wrong: prompt must be text": 1,
    }
    assert ledger.wrong == [
        "mixed.jsonl:2: chosen must not be empty, got ' '",
        "mixed.jsonl:4: chosen must differ from rejected, got '5' for both",
        "mixed.jsonl:5: prompt must be text, got 3",
    ]
    assert ledger.kept == 1


def test_more_wrong_rows_than_allowed_stop_the_run(tmp_path):
    assert prepared(mixed(tmp_path), on_bad_row="drop", max_dropped=0.6).ledger.train.read == 5
    with pytest.raises(Refusal) as refused:
        prepared(mixed(tmp_path), on_bad_row="drop", max_dropped=0.5)
    assert str(refused.value).splitlines()[0] == (
        "every row must be right, got 3 wrong of 5; more than the share of data.max_dropped=0.5, 0.6 of all:"
    )


def test_a_limit_on_dropped_rows_without_dropping_is_refused():
    with pytest.raises(
        ValidationError, match=r"data\.max_dropped must be null where data\.on_bad_row is stop, got 0\.1"
    ):
        prepared(Path("x.jsonl"), max_dropped=0.1)


def test_auto_tells_the_columns_and_why_no_dialect_fits(tmp_path):
    rows = [{"question": 3, "chosen": "4", "rejected": "5"}, {"question": None, "chosen": "4", "rejected": "6"}]
    assert refusal_of_rows(tmp_path, rows, "auto") == (
        "data.dialect=auto must recognise the layout of rows.jsonl, got the columns chosen, question, rejected, "
        "which no dialect fits; rename the columns, or name the dialect to see each fault:\n"
        "  messages: needs the columns prompt, chosen, rejected; there is no prompt\n"
        "  ultrafeedback: needs the columns prompt, chosen, rejected; there is no prompt\n"
        "  openhermes: reads 0 of the first 2 rows; rows.jsonl:1: question must be text, got 3\n"
        "  implicit: would not read the column question\n"
        "  hh_rlhf: reads 0 of the first 2 rows; rows.jsonl:1: chosen and rejected must begin with the same turns up "
        "to an '\\n\\nAssistant:', got '4' and '5'\n"
        "  orca: needs the columns system, question, chosen, rejected; there is no system\n"
        "  sharegpt: needs the columns conversations, chosen, rejected; there is no conversations\n"
        "  ranked: needs the columns prompt or instruction, answers or completions; there is no prompt or "
        "instruction, no answers or completions\n"
        "  rated: needs the columns prompt, response; there is no prompt, no response\n"
        "  labelled: needs the columns prompt, completion, label; there is no prompt, no completion, no label"
    )


def test_auto_tells_two_dialects_that_read_the_rows_differently(tmp_path):
    rows = [{**GOOD, "question": "2 + 2?"}, {**GOOD, "question": "What is 2 + 2?"}]
    assert refusal_of_rows(tmp_path, rows, "auto") == (
        "data.dialect=auto must fit one layout, got rows.jsonl with the columns chosen, prompt, question, rejected, "
        "which messages and openhermes read differently, first at rows.jsonl:2; set data.dialect to one of them; "
        "the others do not fit:\n"
        "  ultrafeedback: reads 0 of the first 2 rows; rows.jsonl:1: chosen must be a list of messages, got '4'\n"
        "  implicit: would not read the column prompt, question\n"
        "  hh_rlhf: reads 0 of the first 2 rows; rows.jsonl:1: chosen and rejected must begin with the same turns up "
        "to an '\\n\\nAssistant:', got '4' and '5'\n"
        "  orca: needs the columns system, question, chosen, rejected; there is no system\n"
        "  sharegpt: needs the columns conversations, chosen, rejected; there is no conversations\n"
        "  ranked: needs the columns prompt or instruction, answers or completions; there is no answers or "
        "completions\n"
        "  rated: needs the columns prompt, response; there is no response\n"
        "  labelled: needs the columns prompt, completion, label; there is no completion, no label"
    )


@pytest.mark.parametrize("dialect", ["auto", "messages"])
def test_a_column_of_the_map_that_is_not_there(tmp_path, dialect):
    rows = [{"question": "2 + 2?", "chosen": "4", "worse": "5"}]
    assert refusal_of_rows(tmp_path, rows, dialect, columns={"prompt": "ask", "system": "rules"}) == (
        "data.columns.prompt must name a column of rows.jsonl, got 'ask'; its columns are chosen, question, worse\n"
        "data.columns.rejected must name a column of rows.jsonl, got null; its columns are chosen, question, worse\n"
        "data.columns.system must name a column of rows.jsonl, got 'rules'; its columns are chosen, question, worse"
    )


def test_a_wrong_row_is_told_by_the_name_that_the_map_gives(tmp_path):
    rows = [{"question": "2 + 2?", "best": 4, "rejected": "5"}]
    assert refusal_of_rows(tmp_path, rows, "auto", columns={"prompt": "question", "chosen": "best"}) == (
        "every row must be right, got 1 wrong of 1; mend or remove them, or set data.on_bad_row=drop:\n"
        "  rows.jsonl:1: best must be text, got 4"
    )


@pytest.mark.parametrize(
    ("dialect", "columns", "sentence"),
    [
        (
            "orca",
            {"prompt": "question"},
            "data.columns.prompt must be null where data.dialect is 'orca', got 'question'; "
            "data.dialect=messages reads columns by other names",
        ),
        (
            "messages",
            {"chosen": "answer", "rejected": "answer"},
            "data.columns.rejected must differ from data.columns.chosen, got 'answer' for both",
        ),
    ],
)
def test_a_map_of_columns_that_makes_no_sense(dialect, columns, sentence):
    choices = {"name": "x", "source": "files", "path": "x.json", "dialect": dialect, "test_size": 0.5}
    with pytest.raises(ValidationError) as refused:
        DataSettings.model_validate({**choices, "columns": columns})
    assert str(refused.value.errors()[0]["ctx"]["error"]) == sentence


def test_a_wrong_row_under_auto_is_told_as_under_the_dialect_it_took(tmp_path):
    assert refusal_of_rows(tmp_path, [GOOD, {**GOOD, "chosen": 3}], "auto") == (
        "every row must be right, got 1 wrong of 2; mend or remove them, or set data.on_bad_row=drop:\n"
        "  rows.jsonl:2: chosen must be text, got 3"
    )
