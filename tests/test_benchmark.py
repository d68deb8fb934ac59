"""Both sides of the benchmark prepare all rows, and report what they took."""

import pytest

from recipes import benchmark


@pytest.mark.parametrize("side", ["ours", "stock"])
def test_a_side_reports_its_rows_seconds_and_memory(tmp_path, side):
    rows = benchmark.make_rows(tmp_path / "rows.jsonl", 60)
    benchmark.make_tokenizer(tmp_path / "tokenizer", rows)
    measured = benchmark.measure(side, rows, tmp_path / "caches", 1)
    assert measured["rows"] == 60
    assert measured["seconds"] > 0
    assert measured["peak"] > 100 * 2**20


def test_a_side_that_fails_ends_the_benchmark_with_what_it_said(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(SystemExit, match=r"must end with 0, got 1:(.|\n)*model\.path must"):
        benchmark.measure("ours", tmp_path / "rows.jsonl", tmp_path / "caches", 1)
