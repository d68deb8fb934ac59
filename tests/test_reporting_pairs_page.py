"""The page of the data report: what it shows, by hand, and that text of rows stays text."""

import re
from pathlib import Path

import pytest

from preftune.data.ledger import Ledger, SplitLedger, TopKCut
from preftune.refusals import Refusal
from preftune.reporting.charts import ticks
from preftune.reporting.pair_report import BINS, Answer, Example, Lengths, LongPair, Scores
from preftune.reporting.pairs_page import length_bins, pairs_page, score_bins, write_page
from tests import stock
from tests.pages import HOSTILE, SHOWN, Parsed

ZEROS = [0] * (BINS - 1)


def scores(cut: TopKCut | None) -> Scores:
    return Scores(1.0, 1.0, 2.0, 3.0, 3.0, 0, (1, *ZEROS[1:], 2), cut)


def test_text_of_rows_makes_no_element_and_no_attribute() -> None:
    def of(text: str) -> Parsed:
        ledger = Ledger(SplitLedger(text, 5, {text: 2}, wrong=[text]), SplitLedger(text, 2))
        return Parsed(
            pairs_page(
                stock.pair_report(
                    ledger=ledger.to_json(),
                    sources={text: 3},
                    longest=(LongPair(text, 6),),
                    examples=(Example(text, text, Answer(text, text), Answer(text, "")),),
                    warnings=(text,),
                ),
                text,
            )
        )

    plain, hostile = of("harmless"), of(HOSTILE)
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert hostile.text.count(SHOWN) == plain.text.count("harmless") > 10
    assert not {"script", "img", "a", "link", "iframe"} & set(hostile.tags)
    assert hostile.open == []


def test_a_page_asks_for_nothing_and_forbids_all_but_its_style() -> None:
    page = pairs_page(stock.pair_report(scores=scores(None)), "a run")
    found = Parsed(page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes
    assert not {"src", "href", "xlink:href", "onload", "onclick"} & {name for name, _ in found.attributes}
    assert "url(" not in page
    assert "://" not in page
    assert page.encode("utf-8")


def test_the_waterfall_falls_from_what_was_read_to_what_is_kept() -> None:
    ledger = Ledger(SplitLedger("x", 10, {"duplicate": 1, "held out": 4}, truncated=2), SplitLedger("x", 4))
    page = pairs_page(stock.pair_report(ledger=ledger.to_json()), "a run")
    bars = re.findall(
        r'<tr class="[a-z]*"><th scope="row">([^<]*)</th><td>(.*?)</td><td class="number">(.*?)</td>', page
    )
    drawn = [(name, re.findall(r'class="([a-z]+)" style="width:([\d.]+)%', bar), value) for name, bar, value in bars]
    assert drawn[:5] == [
        ("read", [("plain", "100.000")], "10"),
        ("duplicate", [("gap", "90.000"), ("dropped", "10.000")], "\u22121"),
        ("held out", [("gap", "50.000"), ("dropped", "40.000")], "\u22124"),
        ("kept", [("chosen", "50.000")], "5"),
        ("of which cut", [("rejected", "20.000")], "2"),
    ]


def test_shares_of_all_places_come_to_one() -> None:
    # Half of the places are padding; of the other half 3, 4 and 4 in 11 are answers and the two copies.
    page = pairs_page(stock.pair_report(), "a run")
    for name, share in (
        ("answers, which carry loss", 14),
        ("prompt", 18),
        ("second copy of the prompt", 18),
        ("padding", 50),
    ):
        assert f"</i>{name} <b>{share}\u00a0%</b>" in page


def test_few_lengths_have_a_bar_each_and_many_share_bins() -> None:
    few = length_bins(Lengths(7, 7, 9, 9, (3, *[0] * 15, 1, *[0] * 14, 2)))
    assert [(one.start, one.stop, one.height) for one in few] == [(7, 8, 3), (8, 9, 1), (9, 10, 2)]
    many = length_bins(Lengths(0, 5, 64, 64, (3, *ZEROS[1:], 2)))
    assert (many[0].says, many[-1].says) == ("0 to 1 tokens: 3 pairs", "62 to 64 tokens: 2 pairs")
    assert [one.height for one in length_bins(Lengths(4, 4, 4, 4, (3, *ZEROS)))] == [3]


def test_the_cut_of_top_k_is_marked_where_it_is_and_the_median_where_there_is_none() -> None:
    cut = pairs_page(stock.pair_report(scores=scores(TopKCut(1.0, kept=2, dropped=3))), "a run")
    assert re.search(r'<text class="mark" x="38.0" y="12" text-anchor="start">cut of top_k at 1</text>', cut)
    assert "of the pairs with just that score 2 were kept and 3 dropped" in cut
    assert re.search(
        r'x="189.0" y="12" text-anchor="middle">median 2<', pairs_page(stock.pair_report(scores=scores(None)), "")
    )
    assert score_bins(scores(None))[-1].says == "2.938 to 3: 2 pairs"


def test_scores_of_any_size_can_be_drawn() -> None:
    for least, most in ((-1.7e308, 1.7e308), (5.0, 5.0), (1e300, 1e300), (0.0, 5e-324), (1e300, 1.0000001e300)):
        drawn = pairs_page(stock.pair_report(scores=Scores(least, least, least, most, most, 0, (1, *ZEROS), None)), "")
        assert not re.search(r"\b(nan|inf)\b", drawn)


def test_ticks_are_round() -> None:
    assert ticks(0, 1007, 6) == [0, 200, 400, 600, 800, 1000]
    assert ticks(-1.5, 1.5, 6) == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    assert ticks(0, 3, 3) == [0, 1, 2, 3]


def test_trained_tokens_are_marked_and_an_answer_that_was_cut_says_so() -> None:
    page = pairs_page(stock.pair_report(), "a run")
    assert '<span class="trained">hello</span><span class="end">&lt;|im_end|&gt;\u21b5</span>' in page
    assert '<span class="trained">bye</span><span class="cut">cut, no end token</span>' in page
    assert '<span class="">ask</span>' in page


def test_long_text_is_folded_and_whole_inside_and_a_huge_one_says_what_it_leaves_out() -> None:
    def of(text: str) -> str:
        return pairs_page(stock.pair_report(examples=(Example("x", text, Answer("a", "b"), Answer("c", "d")),)), "")

    assert "<details" not in of("a" * 580)
    long = of("a" * 581)
    assert '<span class="fold">1 more characters</span>' in long
    assert "a" * 581 in long
    huge = of("a" * 1_000_000)
    assert "980,000 characters left out of this page" in huge
    assert len(huge) < 60_000


def test_many_sources_are_summed_up() -> None:
    page = pairs_page(stock.pair_report(sources={f"s{place}": 2 for place in range(15)}), "")
    assert '<p class="quiet">And 6 pairs from 3 more.</p>' in page


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").write_text("")
    with pytest.raises(Refusal) as refused:
        write_page(stock.pair_report(), "x")
    assert str(refused.value) == (
        "the page of the pairs must go to a directory that can be written, got pairs/x.html: File exists; "
        "start from another directory"
    )


@pytest.mark.parametrize(("more", "shown", "kept"), [(3, "+3", "11"), (-4, "\u22124", "4")])
def test_pairs_beyond_one_a_row_stand_in_the_account_so_that_it_adds_up(more: int, shown: str, kept: str) -> None:
    made = stock.pair_report()
    split = {**made.ledger["train"], "read": 10, "more": more, "dropped": {"duplicate": 2}, "kept": 8 + more}
    page = pairs_page(stock.pair_report(ledger={**made.ledger, "train": split}), "x")
    bars = page[page.index(">read<") :]
    assert f">{shown}<" in bars[: bars.index(">duplicate<")]
    assert f">{kept}<" in bars[bars.index(">kept<") :][:400]
