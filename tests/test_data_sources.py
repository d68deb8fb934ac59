"""Rows come from local files and from the hub, each with its origin."""

import csv
import hashlib
import json
import pickle
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Json

from preftune.data import contents
from preftune.data.loading import load_pairs
from preftune.data.rows import CHUNK_BYTES, Row
from preftune.data.settings import DataSettings, MixedSource, SourceSettings
from preftune.data.sources import source_chunks, source_fingerprint, source_name
from preftune.refusals import Refusal
from preftune.runs.identity import local_contents

ROWS = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}\u2028é", "rejected": "No"} for n in range(3)]
DEMO = Path(__file__).parents[1].parent / "shared/data/dpo_en_demo_200.json"


def written(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        Dataset.from_list(rows).save_to_disk(path, num_shards=min(2, len(rows)))
    return path


def rows_of(path: Path | None = None, split: str = "train", **settings: object) -> list[Row]:
    """Return the rows, read as a worker reads them: from pickled chunks."""
    source = SourceSettings.model_validate({"path": path and str(path), **settings})
    chunks = [pickle.dumps(chunk) for chunk in source_chunks(source, split)]
    return [row for chunk in chunks for row in pickle.loads(chunk).rows()]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet", "rows.csv", "saved"])
def test_every_format_gives_the_same_rows_with_their_origins(tmp_path, name):
    rows = rows_of(written(tmp_path / name))
    assert [dict(row.columns) for row in rows] == ROWS
    first = 2 if name == "rows.csv" else 1  # the first line of a CSV file names the columns
    assert [row.origin for row in rows] == [f"{name}:{first + place}" for place in range(3)]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet", "rows.csv", "saved"])
def test_a_large_file_comes_in_pieces_of_which_no_row_is_lost(tmp_path, name):
    rows = [{"prompt": f"{number}", "chosen": "é" * (number % 997)} for number in range(3000)]
    path = written(tmp_path / name, rows)
    chunks = list(source_chunks(SourceSettings(path=str(path)), "train"))
    assert len(chunks) >= 4  # of 1.5 million characters, and at most 1,000 rows or a quarter of a million bytes each
    assert max(len(pickle.dumps(chunk)) for chunk in chunks) < 3 * CHUNK_BYTES
    assert [dict(row.columns) for row in rows_of(path)] == rows
    assert len({row.origin for row in rows_of(path)}) == 3000


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv", "saved"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    draw = random.Random(0)
    peaks = []
    for count in (10_000, 40_000):  # a thousand characters each that do not compress to less than half
        (tmp_path / str(count)).mkdir()
        path = written(tmp_path / str(count) / name, [{"chosen": draw.randbytes(500).hex()} for _ in range(count)])
        before, most = pa.total_allocated_bytes(), 0
        tracemalloc.start()
        for chunk in source_chunks(SourceSettings(path=str(path)), "train"):
            for _ in chunk.rows():
                pass
            most = max(most, pa.total_allocated_bytes() - before)
        peaks.append(most + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000_000  # of 30 million characters more
    assert peaks[1] < 8_000_000


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet", "rows.csv", "saved"])
def test_a_long_answer_and_text_that_only_looks_odd_stay_as_they_are(tmp_path, name):
    rows = [{"chosen": "long " * 200_000}, {"chosen": "\u202eright to left\u200b\u2066, \\ud83d, \\u0000"}]
    assert [dict(row.columns) for row in rows_of(written(tmp_path / name, rows))] == rows


def test_the_origin_in_json_lines_is_the_line_though_empty_lines_hold_no_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert rows_of(file) == [("rows.jsonl:1", {"a": 1}), ("rows.jsonl:3", {"a": 2})]


def test_the_origin_in_csv_is_the_line_on_which_the_row_begins(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfa,b\r\n"1\r\n\r\n""2""",3\r\n\r\n4,\r\n')
    assert rows_of(file) == [
        ("rows.csv:2", {"a": '1\r\n\r\n"2"', "b": "3"}),
        ("rows.csv:6", {"a": "4", "b": ""}),
    ]


def test_a_glob_reads_its_files_in_the_order_of_their_names(tmp_path):
    for name in ("part-2.jsonl", "part-1.jsonl", "other.jsonl"):
        (tmp_path / name).write_text('{"a": 1}\n{"a": 2}\n')
    path = tmp_path / "part-*.jsonl"
    assert [row.origin for row in rows_of(path)] == [
        "part-1.jsonl:1",
        "part-1.jsonl:2",
        "part-2.jsonl:1",
        "part-2.jsonl:2",
    ]
    assert source_name(SourceSettings(path=str(path)), "train") == "part-*.jsonl"


def test_files_of_one_name_are_told_apart_by_as_many_directories_as_it_takes(tmp_path):
    for name in ("x/1/rows.jsonl", "x/2/rows.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('{"a": 1}')
    assert [row.origin for row in rows_of(tmp_path / "**/*.jsonl")] == ["1/rows.jsonl:1", "2/rows.jsonl:1"]


def test_a_file_whose_name_reads_as_a_glob_is_that_file(tmp_path):
    (tmp_path / "[a].jsonl").write_text('{"a": 1}')
    assert rows_of(tmp_path / "[a].jsonl") == [("[a].jsonl:1", {"a": 1})]


def test_a_saved_data_set_with_splits_gives_the_one_that_is_asked_for(tmp_path):
    splits = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved", "test") == [("saved[test]:1", ROWS[0])]
    assert len(rows_of(tmp_path / "saved")) == 3
    assert source_name(SourceSettings(path=str(tmp_path / "saved")), "test") == "saved[test]"


@pytest.mark.parametrize("name", ["saved", "rows.parquet"])
def test_json_that_datasets_keeps_as_text_is_parsed(tmp_path, name):
    data = Dataset.from_dict({"a": [{"b": 0}, {"c": "x"}]}, features=Features({"a": Json()}))
    if name == "saved":
        data.save_to_disk(tmp_path / name)
    else:
        data.to_parquet(tmp_path / name)
    assert [row.columns["a"] for row in rows_of(tmp_path / name)] == [{"b": 0}, {"c": "x"}]


def fingerprint(path: Path, split: str = "train") -> str:
    return source_fingerprint(SourceSettings(path=str(path)), split)


@pytest.mark.parametrize("name", ["rows.jsonl", "*.jsonl", "saved"])
def test_the_fingerprint_of_local_files_is_their_names_and_bytes_and_not_their_place(tmp_path, name):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        written(tmp_path / place / "rows.jsonl")
        written(tmp_path / place / "saved")
    # Each save draws the time into its state, so the second is a copy.
    shutil.rmtree(tmp_path / "there/saved")
    shutil.copytree(tmp_path / "here/saved", tmp_path / "there/saved")
    here = fingerprint(tmp_path / "here" / name)
    assert len(here) == 64
    assert fingerprint(tmp_path / "there" / name) == here
    (tmp_path / "there/saved/dataset_info.json").unlink()  # says nothing of the rows
    assert fingerprint(tmp_path / "there" / name) == here
    changed = tmp_path / "there" / ("saved/data-00001-of-00002.arrow" if name == "saved" else "rows.jsonl")
    raw = bytearray(changed.read_bytes())
    raw[-1] ^= 1
    changed.write_bytes(raw)
    assert fingerprint(tmp_path / "there" / name) != here


def test_a_renamed_file_has_another_fingerprint_as_its_rows_have_other_origins(tmp_path):
    first = fingerprint(written(tmp_path / "a.jsonl"))
    assert fingerprint((tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")) != first


def test_a_file_that_stays_is_hashed_once_a_process_and_again_when_it_changes(tmp_path, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(contents, "_SETTLED", -1)  # the file counts as old
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name))
    file = written(tmp_path / "a.jsonl")
    first = fingerprint(file)
    assert local_contents({}, {"data.path": (str(file), "train")}) == {"data.path": contents.file_hash(file)}
    assert fingerprint(file) == first
    assert hashed == [str(file)]
    written(file, ROWS[:1])
    assert fingerprint(file) != first
    assert len(hashed) == 2


def test_a_file_just_written_is_hashed_each_time_as_its_time_may_not_show_the_next_write(tmp_path, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name))
    file = written(tmp_path / "a.jsonl")
    assert fingerprint(file) == fingerprint(file)
    assert len(hashed) == 2


def test_the_error_of_a_mixed_source_names_its_place_in_the_mix(tmp_path):
    source = MixedSource(path=str(tmp_path / "no.jsonl"))
    for read in (source_chunks, source_fingerprint):
        with pytest.raises(Refusal) as refusal:
            read(source, "train", "data.mix[1]")
        assert str(refusal.value) == f"data.mix[1].path must name a file that exists, got '{tmp_path}/no.jsonl'"


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "\\ud83d\\ude00"}\n')
    assert rows_of(file) == [("rows.jsonl:1", {"a": "😀"})]


def test_a_dataset_of_the_hub_gives_rows_with_id_split_and_number(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    written(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = rows_of(id="owner/name")
    assert [row.origin for row in rows] == [f"owner/name[train]:{n}" for n in (1, 2, 3)]
    assert [dict(row.columns) for row in rows] == ROWS
    digests = {source_fingerprint(SourceSettings(id="owner/name"), split) for split in ("train", "train[:2]", "train")}
    assert len(digests) == 2


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    written(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(Refusal) as refusal:
        rows_of(id="owner/name", split="trane")
    assert str(refusal.value) == (
        "data.split must be a split of 'owner/name', got 'trane': Unknown split \"trane\". Should be one of ['train']."
    )


@pytest.fixture
def hub(request) -> Iterator[str]:
    """A hub that answers every request with one error."""
    status, code = request.param

    class Closed(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Closed)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def refusal_of_the_hub(cache: Path, **environment: str) -> str:
    # In a process of its own: the hub's address and whether it may be asked are read at import.
    code = (
        "from preftune.data.hub import hub_chunks\n"
        "from preftune.refusals import Refusal\n"
        "try:\n    list(hub_chunks('owner/name', None, 'train'))\n"
        "except Refusal as refusal:\n    print(refusal)\n"
    )
    source = str(Path(__file__).parents[1] / "src")
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": source, "HF_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=cache,
        timeout=120,
    )
    return run.stdout.strip()


def test_a_hub_out_of_reach_is_said_in_one_sentence_with_both_ways_on(tmp_path):
    assert refusal_of_the_hub(tmp_path, HF_HUB_OFFLINE="1") == (
        "data.id must be within reach, got 'owner/name', of which split 'train' at revision 'main' was "
        "needed, and no answer from the hub; set data.path to a local file in the same layout, or load the "
        "dataset once where there is a network, so that the cache holds it"
    )


@pytest.mark.parametrize("hub", [(401, "GatedRepo")], indirect=True)
def test_a_gated_dataset_without_a_token_is_refused_as_such(tmp_path, hub):
    assert refusal_of_the_hub(tmp_path, HF_ENDPOINT=hub) == (
        "data.id must be open to you, got 'owner/name', which is gated; accept its terms on its page and set "
        "HF_TOKEN, or set data.path to a local file in the same layout"
    )


@pytest.mark.parametrize("hub", [(404, "RepoNotFound")], indirect=True)
def test_a_dataset_that_does_not_exist_is_refused_as_such(tmp_path, hub):
    assert refusal_of_the_hub(tmp_path, HF_ENDPOINT=hub) == (
        "data.id must name a dataset on the hub, got 'owner/name' at revision 'main', which does not exist "
        "or is private; set HF_TOKEN for a private one, or set data.path to a local file in the same layout"
    )


@pytest.mark.skipif(not DEMO.exists(), reason="the shared sample data are not beside this checkout")
def test_the_200_real_pairs_load_and_the_two_that_come_twice_are_counted():
    settings = DataSettings(name="sharegpt", source="files", path=str(DEMO), dialect="sharegpt", test_size=10)
    prepared = load_pairs(settings)
    account = prepared.ledger.to_json()
    assert account["train"]["read"] == 200
    assert account["train"]["dropped"] == {"duplicate": 2, "duplicate but for case or space": 0, "held out": 10}
    assert (len(prepared.train), len(prepared.held_out)) == (188, 10)
    assert prepared.train[0].origin.startswith("dpo_en_demo_200.json:")
    assert prepared.true_reward is None
