"""Pairs in one row: each shared token once, each on its own path, each score read off the token before it."""

import torch
from hypothesis import example, given, settings

from preftune.engine.layout import Layout, allowed, lay_out, pair_tokens
from tests.engine import RAGGED, Pair, batch, drawn_pairs

few = settings(max_examples=30, deadline=None)


def laid_out(pairs: list[Pair]) -> Layout:
    made = batch(pairs)
    return lay_out(made["input_ids"], made["attention_mask"], made["completion_mask"])


def paths(layout: Layout) -> list[list[list[int]]]:
    """Return, for each pair, the places of the row that chosen and rejected go through."""
    found = []
    for each in layout.branches:
        trunk = list(range(each.start, each.start + each.trunk))
        chosen = list(range(each.start + each.trunk, each.start + each.trunk + each.chosen))
        after = each.start + each.trunk + each.chosen
        found.append([trunk + chosen, trunk + list(range(after, after + each.rejected))])
    return found


@given(drawn_pairs())
@example(RAGGED)
@few
def test_both_sequences_of_a_pair_can_be_read_off_the_row_with_their_positions(pairs: list[Pair]) -> None:
    layout = laid_out(pairs)
    ids, positions = layout.ids[0].tolist(), layout.positions[0].tolist()
    for (prompt, chosen, rejected), ways in zip(pairs, paths(layout), strict=True):
        for answer, way in zip((chosen, rejected), ways, strict=True):
            assert [ids[place] for place in way] == prompt + answer
            assert [positions[place] for place in way] == list(range(len(way)))


@given(drawn_pairs())
@example(RAGGED)
@few
def test_no_token_is_there_that_the_answers_could_share(pairs: list[Pair]) -> None:
    layout, made = laid_out(pairs), batch(pairs)
    for (prompt, chosen, rejected), each in zip(pairs, layout.branches, strict=True):
        first, second = prompt + chosen, prompt + rejected
        assert first[: each.trunk] == second[: each.trunk]
        assert first[each.trunk : each.trunk + 1] != second[each.trunk : each.trunk + 1] or not (
            each.chosen and each.rejected
        )
    sizes = [each.trunk + each.chosen + each.rejected for each in layout.branches]
    assert pair_tokens(made["input_ids"], made["attention_mask"]) == sizes
    assert layout.ids.shape == layout.positions.shape == (1, sum(sizes))


@given(drawn_pairs())
@example(RAGGED)
@few
def test_a_token_attends_to_what_stands_before_it_on_its_path_and_to_nothing_else(pairs: list[Pair]) -> None:
    layout = laid_out(pairs)
    expected = torch.zeros(layout.ids.shape[1], layout.ids.shape[1], dtype=torch.bool)
    for ways in paths(layout):
        for way in ways:
            for step, place in enumerate(way):
                expected[place, way[: step + 1]] = True
    assert torch.equal(allowed(layout)[0, 0], expected)


@given(drawn_pairs())
@example(RAGGED)
@few
def test_each_completion_token_is_scored_after_the_token_before_it_on_its_path(pairs: list[Pair]) -> None:
    layout, made = laid_out(pairs), batch(pairs)
    mask = made["completion_mask"][:, 1:].bool()
    assert torch.equal(layout.mask, mask)
    assert torch.equal(layout.spread(layout.labels), made["input_ids"][:, 1:] * mask)
    assert torch.equal(layout.spread(layout.ids[0, layout.places]), made["input_ids"][:, :-1] * mask)
    before = torch.arange(mask.shape[1]).expand(mask.shape)
    assert torch.equal(layout.spread(layout.positions[0, layout.places]), before * mask)
    ways = [way for side in range(2) for way in (each[side] for each in paths(layout))]
    for row, way in zip(layout.spread(layout.places + 1), ways, strict=True):
        assert set((row[row > 0] - 1).tolist()) <= set(way)


@given(drawn_pairs())
@example(RAGGED)
@few
def test_what_both_answers_complete_with_alike_is_scored_once(pairs: list[Pair]) -> None:
    layout = laid_out(pairs)
    shared = sum(each.trunk - len(prompt) for each, (prompt, _, _) in zip(layout.branches, pairs, strict=True))
    completions = sum(len(chosen) + len(rejected) for _, chosen, rejected in pairs)
    assert len(layout.places) == len(layout.labels) == completions - shared
    assert sorted(set(layout.sources.tolist())) == list(range(len(layout.places)))
