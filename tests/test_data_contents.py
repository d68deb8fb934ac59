"""A large file that stays is hashed once, by whatever process; one that changes is hashed again."""

import hashlib

import pytest

from preftune.data import contents


@pytest.fixture
def another_process(monkeypatch, tmp_path):
    """Return what makes this process forget, as another would not know; every file counts as old and large."""
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_SETTLED", -1)
    monkeypatch.setattr(contents, "_LARGE", 1)
    monkeypatch.setattr(contents, "_HASHES", {})
    return contents._HASHES.clear


def test_a_large_file_that_stays_is_read_by_one_process(tmp_path, monkeypatch, another_process):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"rows")
    expected = hashlib.sha256(b"rows").hexdigest()
    assert contents.file_hash(file) == expected
    another_process()
    monkeypatch.setattr(contents, "_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert contents.file_hash(file) == expected


def test_a_file_that_changed_in_place_is_read_again(tmp_path, another_process):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"rows")
    contents.file_hash(file)
    another_process()
    file.write_bytes(b"sowr")
    assert contents.file_hash(file) == hashlib.sha256(b"sowr").hexdigest()


def test_a_torn_digest_is_made_again(tmp_path, another_process):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"rows")
    contents.file_hash(file)
    (kept,) = (tmp_path / "cache/hashes").iterdir()
    kept.write_text("abc")
    another_process()
    assert contents.file_hash(file) == hashlib.sha256(b"rows").hexdigest()


def test_a_small_file_leaves_nothing_in_the_cache(tmp_path, monkeypatch, another_process):
    monkeypatch.setattr(contents, "_LARGE", 100)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"rows")
    assert contents.file_hash(file) == hashlib.sha256(b"rows").hexdigest()
    assert not (tmp_path / "cache").exists()
