"""Selection keeps what its settings say, whatever the order of the rows, and accounts for the rest."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.keys import KEY, keys_of
from preftune.data.ledger import SplitLedger
from preftune.data.loading import fingerprint
from preftune.data.selection import hold_out, select, without_prompts_of
from preftune.data.settings import DataSettings
from preftune.data.table import PairTable
from preftune.pairs import Message, PreferencePair
from preftune.refusals import Refusal
from tests import stock


def pair(number: int, score: float = 0.0, prompt: str | None = None, **extras: float) -> PreferencePair:
    asked = Message(role="user", content=prompt or f"Question {number}?")
    return PreferencePair(
        (asked,), f"Good {number}", f"Bad {number}", f"rows.jsonl:{number}", {"score": score, **extras}
    )


def settings(**choices: object) -> DataSettings:
    fixed = {"name": "x", "source": "files", "path": "rows.jsonl", "dialect": "messages", "score": "score"}
    return DataSettings.model_validate({**fixed, "test_size": 0.5, **choices})


def kept(pairs: list[PreferencePair], **choices: object) -> tuple[list[PreferencePair], dict[str, int]]:
    account = SplitLedger("rows.jsonl", read=len(pairs))
    selected = select(stock.table(pairs), settings(**{"duplicates": "exact", **choices}), account)
    assert account.kept == len(selected)
    return list(selected), account.dropped


def content(one: PreferencePair) -> tuple[int, int]:
    high, low = np.frombuffer(keys_of(one, json.dumps(one.prompt)).content, KEY)[0]
    return int(high), int(low)


def test_without_settings_all_but_duplicates_are_kept_in_the_order_of_the_rows():
    selected, dropped = kept([pair(3), pair(1), pair(3), pair(2)])
    assert [one.origin for one in selected] == ["rows.jsonl:3", "rows.jsonl:1", "rows.jsonl:2"]
    assert dropped == {"duplicate": 1}


def test_of_duplicates_the_one_with_the_highest_score_is_kept():
    for twins in ([pair(1, 2.0), pair(1, 5.0)], [pair(1, 5.0), pair(1, 2.0)]):
        selected, dropped = kept(twins)
        assert [one.extras["score"] for one in selected] == [5.0]
        assert dropped == {"duplicate": 1}


def test_a_score_equal_to_min_margin_is_kept():
    selected, dropped = kept([pair(1, 1.0), pair(2, 1.5), pair(3, 2.0)], min_margin=1.5)
    assert [one.extras["score"] for one in selected] == [1.5, 2.0]
    assert dropped == {"duplicate": 0, "below data.min_margin": 1}


def test_top_k_keeps_the_highest_scores_in_the_order_of_the_rows():
    selected, dropped = kept([pair(1, 1.0), pair(2, 3.0), pair(3, 2.0), pair(4, 4.0)], top_k=3)
    assert [one.extras["score"] for one in selected] == [3.0, 2.0, 4.0]
    assert dropped == {"duplicate": 0, "beyond data.top_k": 1}


def test_ties_at_the_cut_do_not_depend_on_row_order():
    rows = [pair(number, score=3.0 if number < 2 else 2.0) for number in range(10)]
    expected = {content(one) for one in rows[:2]}
    expected |= set(sorted(content(one) for one in rows[2:])[:3])
    for order in (rows, rows[::-1]):
        selected, _ = kept(order, top_k=5)
        assert {content(one) for one in selected} == expected


def test_max_rows_keeps_the_lowest_content_hashes():
    rows = [pair(number) for number in range(10)]
    selected, dropped = kept(rows, max_rows=4)
    assert {content(one) for one in selected} == set(sorted(content(one) for one in rows)[:4])
    assert dropped == {"duplicate": 0, "beyond data.max_rows": 6}


def test_each_step_sees_what_the_one_before_it_kept():
    rows = [pair(number, float(number)) for number in range(10)]
    selected, dropped = kept([*rows, rows[0]], min_margin=2.0, top_k=6, max_rows=3)
    assert dropped == {
        "duplicate": 1,
        "below data.min_margin": 2,
        "beyond data.top_k": 2,
        "beyond data.max_rows": 3,
    }
    assert min(one.extras["score"] for one in selected) >= 4.0


@given(
    rows=st.lists(
        st.builds(
            pair,
            st.integers(0, 8),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([None, "Shared?"]),
            score_chosen=st.sampled_from([1.0, 2.0]),
        ),
        min_size=1,
        max_size=24,
    ),
    data=st.data(),
    top_k=st.integers(1, 12),
    max_rows=st.integers(2, 12),
)
def test_selection_and_split_do_not_depend_on_row_order(rows, data, top_k, max_rows):
    def outcome(order):
        selected, dropped = kept(order, top_k=top_k, max_rows=max_rows)
        sides = [selected]
        if len({one.prompt[0]["content"] for one in selected}) > 1:
            sides += hold_out(stock.table(selected), 0.3, split_seed=1)
        return [{(content(one), tuple(one.extras.items())) for one in side} for side in sides], dropped

    assert outcome(data.draw(st.permutations(rows))) == outcome(rows)


def test_all_pairs_of_a_prompt_go_to_one_side():
    rows = [pair(number, prompt=f"Question {number % 5}?") for number in range(20)]
    train, held_out = hold_out(stock.table(rows), 0.4, split_seed=0)
    asked = [{one.prompt[0]["content"] for one in side} for side in (train, held_out)]
    assert [len(prompts) for prompts in asked] == [3, 2]
    assert not asked[0] & asked[1]
    assert (len(train), len(held_out)) == (12, 8)


@pytest.mark.parametrize(("test_size", "held"), [(0.01, 1), (0.25, 5), (1.0, 1), (7.0, 7), (0.07, 1)])
def test_test_size_is_a_share_below_one_and_a_number_from_one_on(test_size, held):
    train, held_out = hold_out(stock.table([pair(number) for number in range(20)]), test_size, split_seed=0)
    assert (len(train), len(held_out)) == (20 - held, held)


def test_another_split_seed_holds_out_other_prompts():
    rows = [pair(number) for number in range(40)]
    splits = {seed: fingerprint(*hold_out(stock.table(rows), 0.5, split_seed=seed)) for seed in (0, 0, 1)}
    assert len(set(splits.values())) == 2


@pytest.mark.parametrize(("rows", "test_size", "count"), [(1, 0.5, 1), (3, 3.0, 3), (2, 0.9, 2)])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(rows, test_size, count):
    with pytest.raises(Refusal) as refusal:
        hold_out(stock.table([pair(number) for number in range(rows)]), test_size, split_seed=0)
    assert str(refusal.value) == (
        f"data.test_size must leave at least 1 of {rows} prompts to train on, got {test_size:g}, "
        f"which holds out {count}; lower it, or give more pairs with different prompts"
    )


def test_a_min_margin_above_all_scores_is_refused_with_the_highest():
    with pytest.raises(Refusal) as refusal:
        kept([pair(1, 1.0), pair(2, 1.5)], min_margin=2.0)
    assert str(refusal.value) == "data.min_margin must be at most 1.5, the highest score of 2 pairs, got 2"


def test_train_pairs_whose_prompt_is_held_out_are_dropped_and_counted():
    account = SplitLedger("x", read=3)
    train = [pair(1), pair(2, prompt="Question 9?"), pair(3)]
    assert list(without_prompts_of(stock.table(train), stock.table([pair(9)]), account)) == [train[0], train[2]]
    assert account.shared_prompts == 1
    assert account.dropped == {"prompt in the held-out split": 1}


def test_a_held_out_split_that_covers_train_is_refused():
    with pytest.raises(Refusal) as refusal:
        without_prompts_of(stock.table([pair(1)]), stock.table([pair(1)]), SplitLedger("x", read=1))
    assert str(refusal.value) == (
        "data.test_split must leave pairs to train on, got the prompts of all 1 in it; "
        "set data.test_split=null to hold out data.test_size of data.split"
    )


def digest(*sides: list[PreferencePair]) -> str:
    return fingerprint(*(stock.table(side) for side in sides))


def test_the_fingerprint_depends_on_content_order_and_side_but_not_on_origin():
    first, second = pair(1), pair(2)
    moved = PreferencePair(first.prompt, first.chosen, first.rejected, "elsewhere:7")
    assert digest([first], [second]) == digest([moved], [second])
    digests = {
        digest(*sides)
        for sides in (([first], [second]), ([second], [first]), ([first, second], []), ([second, first], []))
    }
    assert len(digests) == 4


def lengths(chosen: int, rejected: int) -> PreferencePair:
    return replace(pair(1), chosen="a" * chosen, rejected="b" * rejected)


def test_pairs_of_too_unequal_lengths_are_dropped_and_counted():
    pairs = [lengths(4, 2), lengths(2, 5), lengths(6, 2)]
    selected, dropped = kept(pairs, max_length_ratio=2.5)
    assert selected == pairs[:2]
    assert dropped == {"duplicate": 0, "beyond data.max_length_ratio": 1}


def test_a_length_ratio_that_no_pair_meets_is_refused_with_the_lowest():
    with pytest.raises(Refusal, match=r"data\.max_length_ratio must be at least 2, the lowest of 2 pairs, got 1\.5"):
        kept([lengths(4, 2), lengths(6, 2)], max_length_ratio=1.5)


def test_pairs_that_differ_in_case_space_or_form_count_as_one():
    twins = [pair(1), replace(pair(1), chosen="  good\t1 "), replace(pair(1), rejected="\uff22ad 1"), pair(2)]
    selected, dropped = kept(twins, duplicates="normalized")
    assert sorted(one.origin for one in selected) == ["rows.jsonl:1", "rows.jsonl:2"]
    assert dropped == {"duplicate": 0, "duplicate but for case or space": 2}


def test_copies_are_kept_where_asked():
    assert kept([pair(1), pair(1)], duplicates="keep") == ([pair(1), pair(1)], {})


def turned(one: PreferencePair, **extras: float) -> PreferencePair:
    return replace(one, chosen=one.rejected, rejected=one.chosen, origin="turned:1", extras={"score": 0.0, **extras})


def test_pairs_in_conflict_are_kept_and_counted_or_dropped():
    rows = [pair(1), turned(pair(1)), pair(2)]
    account = SplitLedger("x", read=3)
    assert len(select(stock.table(rows), settings(), account)) == 3
    assert account.conflicting == 2
    selected, dropped = kept(rows, conflicts="drop")
    assert selected == [pair(2)]
    assert dropped == {"in conflict with another pair": 2, "duplicate": 0}


def test_pairs_in_conflict_are_merged_into_the_share_of_votes():
    rows = [turned(pair(1)), pair(1), pair(1, 3.0), pair(1), pair(2)]
    selected, dropped = kept(rows, conflicts="merge")
    assert [(one.chosen, dict(one.extras)) for one in selected] == [
        ("Good 1", {"score": 3.0, "probability": 0.75}),
        ("Good 2", {"score": 0.0}),
    ]
    assert dropped == {"merged with a pair in conflict": 3, "duplicate": 0}


def test_probabilities_of_pairs_in_conflict_are_their_votes():
    rows = [pair(1, probability=0.9), turned(pair(1), probability=0.7), pair(2)]
    selected, _ = kept(rows, conflicts="merge")
    assert selected[0].chosen == "Good 1"
    assert selected[0].extras["probability"] == pytest.approx((0.9 + 0.3) / 2)


def test_ties_are_dropped_where_asked():
    selected, dropped = kept([pair(1, 0.0), pair(2, -1.0), pair(3, 0.5)], ties="drop")
    assert [one.origin for one in selected] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert dropped == {"duplicate": 0, "tie in the score": 1}


def mixed(sizes: list[int], weights: list[float]) -> tuple[list[str], dict[str, int]]:
    stores = []
    for source, size in enumerate(sizes):
        rows = [replace(pair(100 * source + number), origin=f"{source}:{number}") for number in range(size)]
        stores += stock.table(rows).stores
    sources = [{"path": f"{place}.jsonl", "weight": weight} for place, weight in enumerate(weights)]
    chosen = DataSettings.model_validate({"name": "x", "source": "mix", "mix": sources, "test_size": 0.5})
    account = SplitLedger("x", read=sum(sizes))
    return [one.origin[0] for one in select(PairTable(stores), chosen, account)], account.dropped


def test_the_weights_of_a_mix_are_shares_and_the_scarcest_source_sets_the_total():
    origins, dropped = mixed([10, 12, 3], [2, 1, 1])
    assert [origins.count(source) for source in "012"] == [6, 3, 3]
    assert dropped["beyond the weights of data.mix"] == 13


def test_a_mix_that_leaves_none_of_a_source_is_refused():
    with pytest.raises(
        Refusal, match=r"data\.mix must leave pairs of each source, got 1 of 1 of data\.mix\[0\], 0 of 5 of"
    ):
        mixed([1, 5], [10, 1])


def test_a_prompt_in_other_case_stays_on_its_side():
    rows = [pair(number, prompt=f"{'WHAT' if number % 2 else 'what'} is  {number // 2}?") for number in range(20)]
    train, held_out = hold_out(stock.table(rows), 0.5, split_seed=0)
    sides = [{one.prompt[0]["content"].lower() for one in side} for side in (train, held_out)]
    assert not sides[0] & sides[1]
    assert (len(train), len(held_out)) == (10, 10)
