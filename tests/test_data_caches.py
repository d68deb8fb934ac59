"""Pairs and ids are kept by content: read once, made again when harmed, and never left half made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from preftune.caches import made_once
from preftune.data import loading
from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.reading import read_into
from preftune.models.tokenizer import ChatTokenizer
from preftune.refusals import Refusal
from preftune.tokens import tokenization as tokens
from tests import stock

LOAD = """
import sys
from pathlib import Path
from preftune.data.loading import load_pairs
from tests import stock
prepared = load_pairs(stock.data_settings(Path(sys.argv[1])))
print(prepared.fingerprint)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    return stock.write_pairs(tmp_path / "pairs.jsonl", stock.pairs(22))


def held(cache: Path, kind: str) -> list[str]:
    names = sorted(path.name for path in (cache / kind).iterdir()) if (cache / kind).exists() else []
    return [name for name in names if not name.endswith(".lock")]


def chat(style: stock.Style = stock.CHATML) -> ChatTokenizer:
    return ChatTokenizer(stock.tokenizer(style), "<|im_end|>" if style is stock.CHATML else "<|eot_id|>")


def tokenized(prepared: PreparedPairs, made: ChatTokenizer, max_length: int = 256) -> list[list[int]]:
    rows = tokens.tokenize(prepared.train, made, max_length=max_length, overlong="drop").rows
    return [row["prompt_ids"] + row["chosen_ids"] for row in rows]


def test_a_source_that_is_refused_leaves_nothing(file, cache):
    with file.open("a") as rows:
        rows.write('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    for _ in range(2):
        with pytest.raises(Refusal, match=r"pairs\.jsonl:23: chosen must differ from rejected"):
            load_pairs(stock.data_settings(file))
        assert held(cache, "pairs") == []
    with file.open("a") as rows:
        rows.write('{"prompt": "cut in the mid')
    with pytest.raises(Refusal, match=r"pairs\.jsonl:24: must be JSON"):
        load_pairs(stock.data_settings(file, on_bad_row="drop"))
    assert held(cache, "pairs") == []


def test_pairs_that_are_refused_a_length_leave_no_ids(file, cache):
    with pytest.raises(Refusal, match=r"prompt and answer must have at most train\.max_length=8 tokens"):
        tokens.tokenize(load_pairs(stock.data_settings(file)).train, chat(), max_length=8, overlong="stop")
    assert held(cache, "tokens") == []


@pytest.mark.parametrize("kind", ["pairs", "tokens"])
@pytest.mark.parametrize(
    "harm",
    [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[: len(raw) // 2] + b"\x7f" + raw[len(raw) // 2 + 1 :]],
    ids=["cut", "emptied", "flipped in the middle"],
)
def test_what_was_harmed_is_made_again(file, cache, kind, harm):
    prepared, made = load_pairs(stock.data_settings(file)), chat()
    pairs, ids = list(prepared.train), tokenized(prepared, made)
    (entry,) = held(cache, kind)
    kept = cache / kind / entry / {"pairs": "pairs.arrow", "tokens": "ids.arrow"}[kind]
    raw = kept.read_bytes()
    kept.unlink()  # what is mapped stays as it was
    kept.write_bytes(harm(raw))
    prepared = load_pairs(stock.data_settings(file))
    assert (list(prepared.train), tokenized(prepared, made)) == (pairs, ids)
    assert kept.read_bytes() == raw


def test_only_what_changes_pairs_or_ids_makes_them_again(file, cache, monkeypatch):
    reads: list[str] = []
    read_into = loading.read_into
    monkeypatch.setattr(loading, "read_into", lambda *a, **k: (reads.append("read"), read_into(*a, **k)))
    for choices in ({}, {"split_seed": 1}, {"overlong": "cut"}, {"test_size": 3}, {"max_rows": 12}):
        load_pairs(stock.data_settings(file, **choices))
    assert len(reads) == 1
    prepared, made = load_pairs(stock.data_settings(file)), chat()
    spoken = chat()
    spoken.tokenizer.chat_template = "Talk.\n" + stock.CHATML.template
    counts = []
    for tokenizer, length in ((made, 256), (chat(), 256), (made, 64), (spoken, 256), (chat(stock.LLAMA3), 256)):
        tokenized(prepared, tokenizer, length)
        counts.append(len(held(cache, "tokens")))
    assert counts == [1, 1, 2, 3, 4]
    assert (len(reads), len(held(cache, "pairs"))) == (1, 1)


def loader(file: Path, cache: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "PREFTUNE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def test_two_processes_at_once_keep_one_entry(file, cache):
    both = [loader(file, cache) for _ in range(2)]
    assert len({process.communicate(timeout=60)[0] for process in both}) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert len(held(cache, "pairs")) == 1


def test_a_run_that_is_killed_while_it_reads_leaves_a_part_that_the_next_one_clears(tmp_path, cache):
    file = stock.write_pairs(tmp_path / "large.jsonl", stock.pairs(60_000))
    process = loader(file, cache)
    until = time.monotonic() + 60
    while not any(name.endswith(".partial") for name in held(cache, "pairs")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [Path(name).suffix for name in held(cache, "pairs")] == [".partial"]
    prepared = load_pairs(stock.data_settings(file))
    assert len(prepared.train) + len(prepared.held_out) == 60_000
    assert [Path(name).suffix for name in held(cache, "pairs")] == [""]


def test_a_byte_flipped_in_the_middle_of_a_large_file_is_noticed(tmp_path):
    kept = made_once(tmp_path / "kept", lambda directory: (directory / "a").write_bytes(bytes(400_000))) / "a"
    kept.write_bytes(bytes(200_100) + b"\x01" + bytes(199_899))
    made_once(tmp_path / "kept", lambda directory: (directory / "a").write_bytes(bytes(400_000)))
    assert kept.read_bytes() == bytes(400_000)


def test_a_file_that_changes_while_it_is_read_is_refused_and_leaves_nothing(file, cache, monkeypatch):
    def changing(*arguments: Any, **named: Any) -> None:
        read_into(*arguments, **named)
        file.write_text(file.read_text() + "\n")

    monkeypatch.setattr(loading, "read_into", changing)
    with pytest.raises(
        Refusal, match=r"^pairs\.jsonl must stay as it is while it is read, got other content at the end"
    ):
        load_pairs(stock.data_settings(file))
    assert held(cache, "pairs") == []
