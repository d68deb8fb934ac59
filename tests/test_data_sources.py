"""Rows come from local files and from the hub, each with its origin."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from datasets import Dataset

from preftune.data.files import file_rows
from preftune.data.hub import hub_rows
from preftune.data.loading import load_pairs
from preftune.data.settings import DataSettings
from preftune.refusals import Refusal

ROWS = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}\u2028é", "rejected": "No"} for n in range(3)]
DEMO = Path(__file__).parents[1].parent / "shared/data/dpo_en_demo_200.json"


def written(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet"])
def test_every_format_gives_the_same_rows_with_their_origins(tmp_path, name):
    rows = list(file_rows(str(written(tmp_path / name))))
    assert [dict(row.columns) for row in rows] == ROWS
    assert [row.origin for row in rows] == [f"{name}:1", f"{name}:2", f"{name}:3"]


def test_the_origin_in_json_lines_is_the_line_though_empty_lines_hold_no_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert [(row.origin, row.columns) for row in file_rows(str(file))] == [
        ("rows.jsonl:1", {"a": 1}),
        ("rows.jsonl:3", {"a": 2}),
    ]


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "\\ud83d\\ude00"}\n')
    assert [row.columns for row in file_rows(str(file))] == [{"a": "😀"}]


def test_a_dataset_of_the_hub_gives_rows_with_id_split_and_number(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    written(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(hub_rows("owner/name", None, "train"))
    assert [row.origin for row in rows] == [f"owner/name[train]:{n}" for n in (1, 2, 3)]
    assert [dict(row.columns) for row in rows] == ROWS


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    written(tmp_path / "owner/name/train.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(Refusal) as refusal:
        list(hub_rows("owner/name", None, "trane"))
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
        "from preftune.data.hub import hub_rows\n"
        "from preftune.refusals import Refusal\n"
        "try:\n    list(hub_rows('owner/name', None, 'train'))\n"
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
    assert account["train"]["dropped"] == {"duplicate": 2, "held out": 10}
    assert (len(prepared.train), len(prepared.held_out)) == (188, 10)
    assert prepared.train[0].origin.startswith("dpo_en_demo_200.json:")
    assert prepared.true_reward is None
