"""A long text is read, or refused, in time that grows with its length alone."""

import time
from contextlib import suppress

import pytest

from preftune.data.dialects import DIALECTS
from preftune.data.rendered import unrendered
from preftune.data.rows import Row, RowError
from preftune.data.scores import number

MEGABYTE = 1_000_000
PIECES = [
    "a",
    " ",
    "\n",
    "<|im_end|>",
    "<|im_start|>",
    "[INST]",
    "[/INST]",
    "</s>",
    "<s>",
    "\n\nHuman:",
    "{",
    "[{'role':",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_anything_is_read_by_every_dialect_within_a_second(piece):
    text = piece * (MEGABYTE // len(piece))
    for name, read in DIALECTS.items():
        for columns in (
            {
                "chosen": text,
                "rejected": f"{text}b",
                "response": text,
                "completion": text,
                "answers": [{"answer": text}],
            },
            {"prompt": text, "question": text, "chosen": "4", "rejected": "5", "response": "4", "completion": "4"},
        ):
            start = time.process_time()
            with suppress(RowError):
                read(Row("rows.jsonl:1", {"prompt": "2 + 2?", "system": "", "label": 1, "score": 1, **columns}))
            assert time.process_time() - start < 1, name


def test_two_hundred_thousand_closers_are_taken_off_in_less_than_a_second():
    start = time.process_time()
    assert unrendered("4" + "</s>" * 200_000, "chosen") == "4"
    assert unrendered("</s> " * 200_000 + "4", "chosen") != "4"
    assert time.process_time() - start < 1


def test_a_megabyte_of_digits_is_no_number():
    with pytest.raises(RowError, match=r"^score must be a finite number, got '1{56}\.\.\.$"):
        number("1" * MEGABYTE, "score")
