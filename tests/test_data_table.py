"""Pairs come back from the disk as they were, in the order of their rows."""

import numpy as np
import pytest

from preftune.data.keys import KEY
from preftune.data.store import PairStore, encoded, write_store
from preftune.data.table import PairTable
from preftune.pairs import PreferencePair
from tests import stock

ODD = "a\u2028b \u202eevil\u202c \U0001f600 e\u0301 \x07 \r\n\t\"'\\ </s>"


def pair(number: int, **extras: float) -> PreferencePair:
    prompt = ({"role": "system", "content": ODD}, {"role": "user", "content": f"{number}?"})
    return PreferencePair(prompt, f"{ODD}{number}", "No" * (number + 1), f"of: me.jsonl:{number}", extras)


PAIRS = [pair(n, **({"score": n / 3, "weight": 1e-300} if n % 2 else {})) for n in range(10)]


def test_pairs_come_back_as_they_were():
    table = stock.table(PAIRS)
    assert list(table) == PAIRS
    assert [table[place] for place in range(10)] == PAIRS
    assert [table.origin(place) for place in range(10)] == [one.origin for one in PAIRS]
    assert (table[-1], list(table[2:9:3]), len(table[8:])) == (PAIRS[9], PAIRS[2:9:3], 2)
    assert table.numbers("score").tolist()[1::2] == [n / 3 for n in range(1, 10, 2)]
    assert np.isnan(table.numbers("score")[::2]).all()


def test_a_place_outside_a_table_is_an_index_error_as_in_any_sequence():
    table = stock.table(PAIRS)
    for place in (10, -11):
        with pytest.raises(IndexError, match=rf"^place must be below 10, got {place}$"):
            table[place]
    assert list(reversed(table)) == PAIRS[::-1]
    assert table.index(PAIRS[7]) == 7
    with pytest.raises(ValueError, match=r"^step must be above 0, as pairs stay in the order of their rows, got -1$"):
        table[::-1]


def test_an_empty_store_is_a_table_of_no_pairs(tmp_path):
    write_store(tmp_path, [encoded([])], {"name": "x"})
    table = PairTable([PairStore(tmp_path)])
    assert (len(table), list(table), table.extras(), len(table.numbers("content"))) == (0, [], {}, 0)
    assert table.stores[0].facts == {"sizes": [0], "name": "x"}


def test_several_stores_are_one_table_that_knows_its_sources():
    tables = [stock.table(PAIRS[:4]), stock.table([]), stock.table(PAIRS[4:])]
    table = PairTable([store for one in tables for store in one.stores])
    assert list(table) == PAIRS
    assert table.sources().tolist() == [0] * 4 + [2] * 6
    assert [table.origin(place) for place in (3, 4)] == [PAIRS[3].origin, PAIRS[4].origin]
    assert list(table[3:5]) == PAIRS[3:5]
    for name in ("content", "normalized", "prompt", "unordered", "carried"):
        assert table.numbers(name).dtype == KEY.newbyteorder("=")
        assert (table.numbers(name) == np.concatenate([one.numbers(name) for one in tables])).all()
    assert len(np.unique(table.numbers("content"))) == 10


def test_a_choice_keeps_the_order_of_the_rows_and_what_was_merged():
    table = stock.table(PAIRS).only(np.array([8, 1, 5]), {5: 0.25})
    assert [one.origin for one in table] == [PAIRS[n].origin for n in (1, 5, 8)]
    assert [one.extras.get("probability") for one in table] == [None, 0.25, None]
    mask = np.array([False, True, True])
    assert [one.origin for one in table.only(mask)] == [PAIRS[n].origin for n in (5, 8)]
    assert table.only(mask)[0].extras == {"score": 5 / 3, "weight": 1e-300, "probability": 0.25}
    assert table[1:].extras()["probability"].tolist()[:1] == [0.25]
    assert table.numbers("ratio").tolist() == [max(a, b) / min(a, b) for a, b in map(lengths, table)]


def lengths(one: PreferencePair) -> tuple[int, int]:
    return len(one.chosen), len(one.rejected)


def test_numbers_are_columns_with_nothing_where_a_pair_has_none():
    columns = stock.table(PAIRS).extras()
    assert sorted(columns) == ["score", "weight"]
    for name, column in columns.items():
        expected = [one.extras.get(name, np.nan) for one in PAIRS]
        np.testing.assert_array_equal(column, expected)


def test_keys_tell_the_same_pair_from_others_and_its_mirror():
    one = PreferencePair(({"role": "user", "content": "A  b"},), "x", "y", "o", {"w": 1.0})
    spaced = PreferencePair(({"role": "user", "content": "a B"},), " X", "Y ", "p", {"w": 1.0})
    turned = PreferencePair(one.prompt, "y", "x", "q", {"w": 2.0})
    table = stock.table([one, spaced, turned])
    same = {
        name: (table.numbers(name)[:1] == table.numbers(name)[1:]).tolist()
        for name in ("content", "normalized", "prompt", "unordered", "carried")
    }
    assert same == {
        "content": [False, False],
        "normalized": [True, False],
        "prompt": [True, True],
        "unordered": [False, True],
        "carried": [True, False],
    }
    assert table.numbers("is_first")[0] + table.numbers("is_first")[2] == 1
