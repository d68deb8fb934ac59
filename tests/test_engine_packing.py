"""Pairs into micro-batches: none lost, none twice, none beyond the budget that could be within it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.engine.packing import by_pairs, by_tokens, by_turns, part_of
from tests.engine import RAGGED, Pair, batch, drawn_pairs

few = settings(max_examples=50, deadline=None)
sizes = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@given(sizes, st.integers(1, 200))
@few
def test_by_tokens_holds_each_pair_once_and_goes_beyond_its_budget_for_a_lone_pair_alone(
    tokens: list[int], budget: int
) -> None:
    parts = by_tokens(tokens, budget)
    assert sorted(place for part in parts for place in part) == list(range(len(tokens)))
    for part in parts:
        assert part == sorted(part) != []
        assert sum(tokens[place] for place in part) <= budget or len(part) == 1


@given(sizes, st.integers(1, 200), st.data())
@few
def test_by_turns_does_so_in_at_least_as_many_parts_as_asked_for_whose_sizes_the_tokens_do_not_change(
    tokens: list[int], budget: int, data: st.DataObject
) -> None:
    at_least = data.draw(st.integers(1, len(tokens)))
    parts = by_turns(tokens, budget, at_least)
    assert at_least <= len(parts) <= len(tokens)
    assert sorted(place for part in parts for place in part) == list(range(len(tokens)))
    assert all(sum(tokens[place] for place in part) <= budget or len(part) == 1 for part in parts)
    alike = by_turns([1] * len(tokens), len(tokens), len(parts))
    assert [len(part) for part in parts] == [len(part) for part in alike]


@given(sizes)
@few
def test_by_tokens_makes_one_part_where_all_fit_and_balances_two(tokens: list[int]) -> None:
    assert by_tokens(tokens, sum(tokens)) == [list(range(len(tokens)))]
    parts = by_tokens(tokens, max(sum(tokens) - 1, max(tokens)))
    if len(parts) == 2:
        first, second = (sum(tokens[place] for place in part) for part in parts)
        assert abs(first - second) <= max(tokens)


def test_pairs_of_one_length_fill_the_budget() -> None:
    assert [len(part) for part in by_tokens([10] * 12, 30)] == [3, 3, 3, 3]


@given(st.integers(1, 40), st.integers(1, 50))
@few
def test_by_pairs_keeps_the_order_and_fills_all_but_the_last(pairs: int, micro_batch: int) -> None:
    parts = by_pairs(pairs, micro_batch)
    assert [place for part in parts for place in part] == list(range(pairs))
    assert all(len(part) == micro_batch for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= micro_batch


@given(drawn_pairs(6), st.data())
@few
def test_a_part_is_the_batch_that_its_pairs_alone_would_make(pairs: list[Pair], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, unique=True))
    got = part_of(batch(pairs), places)
    expected = batch([pairs[place] for place in places]) | {"row": torch.tensor(places)}
    assert got.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(got[name], each), name


def test_a_part_of_short_pairs_has_no_column_of_padding() -> None:
    assert part_of(batch(RAGGED), [1])["input_ids"].tolist() == [[3, 4], [3, 5]]
