"""A reference's log-probabilities are kept under what changes them, and found again by a pair's ids."""

import itertools
import shutil
import time
from pathlib import Path

import datasets
import numpy as np
import pytest

from preftune.models.settings import ModelSettings
from preftune.models.source import ModelSource, locate
from preftune.refusals import Refusal
from preftune.training.reference_keys import pair_digest, reference_key, row_digests
from preftune.training.reference_store import ReferenceStore
from tests import stock

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def rows(count: int, longest: int = 12) -> datasets.Dataset:
    random = np.random.default_rng(0)
    columns = {
        name: [random.integers(0, 400, random.integers(1, longest)).tolist() for _ in range(count)] for name in COLUMNS
    }
    features = datasets.Features(dict.fromkeys(COLUMNS, datasets.List(datasets.Value("int32"))))
    return datasets.Dataset.from_dict(columns, features=features)


def scored(row: dict[str, list[int]], dtype: type = np.float32) -> np.ndarray:
    """Stand-in numbers of a pair that depend on its ids alone."""
    prompt = sum(row["prompt_ids"])
    return -np.sqrt(np.asarray([prompt + token for token in row["chosen_ids"] + row["rejected_ids"]], dtype))


def fill(store: ReferenceStore, table: datasets.Dataset, dtype: type = np.float32) -> list[int]:
    """Add what is missing of `table`; return which of its rows that was."""
    digests = row_digests(table)
    missing = np.flatnonzero(store.find(digests) < 0)
    if len(missing):
        some = [table[int(row)] for row in missing]
        lengths = np.array([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in some])
        store.add(digests[missing], np.concatenate([scored(row, dtype) for row in some]), lengths)
    return missing.tolist()


def holds(store: ReferenceStore, table: datasets.Dataset, dtype: type = np.float32) -> bool:
    for place, row in zip(store.find(row_digests(table)), table, strict=True):
        found = store.values(place)
        assert store.lengths(place) == (len(row["chosen_ids"]), len(row["rejected_ids"]))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, scored(row, dtype))
    return True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_added_is_found_in_its_own_type_by_this_store_and_the_next(tmp_path, dtype):
    table, store = rows(30), ReferenceStore(tmp_path / "key")
    assert fill(store, table, dtype) == list(range(30))
    assert holds(store, table, dtype)
    assert holds(ReferenceStore(tmp_path / "key"), table, dtype)


def test_filtered_and_grown_data_compute_only_what_is_new(tmp_path):
    table = rows(40)
    fill(ReferenceStore(tmp_path / "key"), table.select(range(25)))
    store = ReferenceStore(tmp_path / "key")
    assert fill(store, table.select([3, 24, 7])) == []
    assert fill(store, table.select([30, 3, 26])) == [0, 2]
    assert fill(store, table) == sorted(set(range(25, 40)) - {26, 30})
    assert len(store) == 40
    assert holds(store, table.select(range(39, -1, -1)))


def test_places_stay_while_pairs_are_added(tmp_path):
    table, store = rows(20), ReferenceStore(tmp_path / "key")
    fill(store, table.select(range(10)))
    before = store.find(row_digests(table.select(range(10))))
    fill(store, table)
    assert store.find(row_digests(table.select(range(10)))).tolist() == before.tolist()


def test_a_pair_added_twice_is_harmless(tmp_path):
    table, store = rows(5), ReferenceStore(tmp_path / "key")
    fill(store, table)
    twice = ReferenceStore(tmp_path / "key")
    row = table[2]
    for _ in range(2):
        twice.add(
            row_digests(table.select([2])), scored(row), np.array([[len(row["chosen_ids"]), len(row["rejected_ids"])]])
        )
    assert (len(twice), len(ReferenceStore(tmp_path / "key"))) == (6, 6)
    assert holds(ReferenceStore(tmp_path / "key"), table)


def test_nothing_is_found_in_an_empty_store_or_for_no_pairs(tmp_path):
    store = ReferenceStore(tmp_path / "key")
    assert store.find(row_digests(rows(3))).tolist() == [-1, -1, -1]
    assert store.find(row_digests(rows(3).select([]))).tolist() == []
    store.add(np.empty((0, 16), np.uint8), np.empty(0, np.float32), np.empty((0, 2), int))
    assert list(store.directory.iterdir()) == []
    with pytest.raises(IndexError, match="place must be from 0 to below 0, got -1"):
        store.values(-1)


def test_what_is_discarded_is_forgotten_here_and_by_a_store_that_was_open(tmp_path):
    table, other = rows(5), ReferenceStore(tmp_path / "other")
    fill(other, table)
    store = ReferenceStore(tmp_path / "key")
    fill(store, table)
    open_before = ReferenceStore(tmp_path / "key")
    store.discard()
    assert len(store) == 0
    with open_before.lock():
        assert fill(open_before, table) == [0, 1, 2, 3, 4]
    assert holds(ReferenceStore(tmp_path / "other"), table)


@pytest.mark.parametrize(
    ("digests", "values", "lengths", "message"),
    [
        (np.zeros((1, 16), np.uint8), np.zeros(3, "f4"), [[1, 1]], r"got \(1, 16\), \(3,\) and \(1, 2\) with sum 2"),
        (np.zeros((1, 15), np.uint8), np.zeros(2, "f4"), [[1, 1]], r"got \(1, 15\), \(2,\) and"),
        (np.zeros((2, 16), np.uint8), np.zeros(2, "f4"), [[1, 1]], r"got \(2, 16\), \(2,\) and"),
        (np.zeros((1, 16), np.uint8), np.zeros(2, "f4"), [[3, -1]], r"with sum 2"),
        (np.zeros((1, 16), np.uint8), np.zeros(2, "f2"), [[1, 1]], "values must be float32 or float64, got float16"),
        (np.zeros((1, 16), np.uint8), np.array([0, np.nan], "f4"), [[1, 1]], "values must be finite, got nan"),
        (np.zeros((1, 16), np.uint8), np.array([-np.inf, 0], "f4"), [[1, 1]], "values must be finite, got -inf"),
    ],
)
def test_what_does_not_fit_is_not_added(tmp_path, digests, values, lengths, message):
    store = ReferenceStore(tmp_path / "key")
    with pytest.raises(ValueError, match=message):
        store.add(digests, values, np.array(lengths))
    assert list(store.directory.iterdir()) == []


def test_a_table_is_digested_as_its_pairs_are_whatever_its_form():
    table = rows(50)
    expected = [pair_digest(*(row[name] for name in COLUMNS)) for row in table]
    forms = {
        "in chunks": datasets.concatenate_datasets([table.select(range(20)), table.select(range(20, 50))]),
        "with other columns": table.add_column("row", range(50)),
        "of wide integers": table.cast(
            datasets.Features(dict.fromkeys(COLUMNS, datasets.List(datasets.Value("int64"))))
        ),
        "formatted": table.with_format("torch"),
    }
    for form, other in forms.items():
        assert [digest.tobytes() for digest in row_digests(other)] == expected, form
    empty = datasets.Dataset.from_dict({"prompt_ids": [[], []], "chosen_ids": [[1], [2]], "rejected_ids": [[2], [1]]})
    wide = empty.cast(table.features)
    assert [digest.tobytes() for digest in row_digests(wide)] == [pair_digest([], [1], [2]), pair_digest([], [2], [1])]
    order = [49, 3, 3, 17]
    assert [digest.tobytes() for digest in row_digests(table.select(order))] == [expected[row] for row in order]


def test_pairs_that_differ_in_an_id_or_in_where_an_answer_begins_have_different_digests():
    pairs = [
        ([1, 2], [3], [4]), ([1], [2, 3], [4]), ([1, 2, 3], [4], []), ([1, 2], [4], [3]), ([1, 2], [3], [5]),
        ([1, 2], [3, 4], []), ([2, 1], [3], [4]), ([], [], []), ([0], [], []), ([], [0], []), ([], [], [0]),
    ]  # fmt: skip
    digests = [pair_digest(*pair) for pair in pairs]
    assert len(set(digests)) == len(pairs)
    assert {len(digest) for digest in digests} == {16}


def test_digests_that_hold_zeros_are_told_apart(tmp_path):
    digests = np.zeros((4, 16), np.uint8)
    digests[1, 15], digests[2, 0], digests[3, 8] = 1, 1, 255
    store = ReferenceStore(tmp_path / "key")
    store.add(digests[:3], np.arange(6, dtype=np.float32), np.ones((3, 2), int))
    assert store.find(digests).tolist() == [0, 1, 2, -1]


def test_a_hundred_thousand_pairs_are_digested_loaded_and_found_within_seconds(tmp_path):
    random, count = np.random.default_rng(0), 100_000
    store = ReferenceStore(tmp_path / "key")
    digests = random.integers(0, 256, (count, 16), np.uint8)
    store.add(digests, np.zeros(count * 20, np.float32), np.full((count, 2), 10))
    started = time.perf_counter()
    loaded = ReferenceStore(tmp_path / "key")
    assert (loaded.find(digests) == np.arange(count)).all()
    assert loaded.values(count - 1).shape == (20,)
    assert time.perf_counter() - started < 5
    ids = datasets.Dataset.from_dict({name: [[7] * 100] * 10_000 for name in COLUMNS})
    started = time.perf_counter()
    row_digests(ids)
    assert time.perf_counter() - started < 2


@pytest.fixture
def adapter(tmp_path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text('{"lora_alpha": 16}')
    (directory / "adapter_model.safetensors").write_bytes(b"weights")
    return directory


@pytest.fixture
def model(tmp_path, chatml_model) -> Path:
    return Path(shutil.copytree(chatml_model, tmp_path / "model"))


def key(settings: ModelSettings, adapter: Path | None = None, **types: str) -> str:
    return reference_key(settings, locate(settings), adapter, **types)


def test_a_key_ignores_what_leaves_the_numbers_as_they_are(model, tmp_path):
    made = key(stock.model_settings(model))
    ignored = {
        "name": "other", "attention": "eager", "target_modules": ["q_proj"], "pad_token": "<|endoftext|>",
        "end_of_turn": "<|im_end|>", "start": "sft", "chat_template": "x.jinja", "learning_rate": 0.1,
    }  # fmt: skip
    for name, value in ignored.items():
        assert key(stock.model_settings(model, **{name: value})) == made, name
    assert key(stock.model_settings(shutil.copytree(model, tmp_path / "elsewhere"))) == made
    (model / "tokenizer_config.json").write_text("{}")
    (model / "notes.txt").write_text("x")
    assert key(stock.model_settings(model)) == made
    assert key(stock.model_settings(model), computed_in="float32") == made
    assert key(stock.model_settings(model), adapter_dtype="float32") == made


def test_a_key_changes_with_all_that_changes_the_numbers(model, adapter):
    def made(**changes: object) -> str:
        return key(stock.model_settings(model, **changes))

    local = stock.model_settings(model)
    keys = {
        "base": made(),
        "nf4": made(quantization="nf4"),
        "int8": made(quantization="int8"),
        "dtype": made(dtype="bfloat16"),
        "autocast": key(local, computed_in="bfloat16"),
        "float64": key(local, computed_in="float64"),
        "adapter": key(local, adapter),
        "adapter in bfloat16": key(local, adapter, adapter_dtype="bfloat16"),
    }
    (adapter / "adapter_model.safetensors").write_bytes(b"weightz")
    keys["other adapter"] = key(local, adapter)
    (adapter / "adapter_config.json").write_text('{"lora_alpha": 32}')
    keys["other scale"] = key(local, adapter)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    keys["other weights"] = made()
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert (model / "config.json").read_text() != config
    keys["other config"] = made()
    (model / "more.safetensors").write_bytes(b"more")
    keys["one more file of weights"] = made()
    same = [pair for pair in itertools.combinations(keys, 2) if keys[pair[0]] == keys[pair[1]]]
    assert same == []


def test_a_directory_without_weights_has_no_key(model, adapter):
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(Refusal, match=r"adapter must hold adapter_config\.json and weights, got adapter_config\.json"):
        key(stock.model_settings(model), adapter)
    (model / "model.safetensors").unlink()
    with pytest.raises(Refusal, match=r"model must hold config\.json and weights, got config\.json"):
        key(stock.model_settings(model))


def test_a_model_of_the_hub_is_known_by_its_name_and_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = stock.model_settings(tmp_path, source="hub", id="some/model")

    def known(location: str, revision: str) -> str:
        return reference_key(settings, ModelSource(location, revision), None)

    def put(name: str, commit: str) -> None:
        kept = tmp_path / f"models--some--{name}"
        (kept / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (kept / "snapshots" / commit / "config.json").write_text("{}")
        (kept / "refs").mkdir(exist_ok=True)
        (kept / "refs" / "main").write_text(commit)

    with pytest.raises(
        Refusal, match=r"some/model must lie in the hub's cache at revision main .*, got no config\.json"
    ):
        known("some/model", "main")
    put("model", "a" * 40)
    put("copy", "a" * 40)
    first = known("some/model", "main")
    assert known("some/model", "a" * 40) == first != known("some/copy", "main")
    put("model", "b" * 40)
    assert known("some/model", "main") != first == known("some/model", "a" * 40)
