"""The data report: its numbers by hand, its warnings by their text, and its text inert."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich import console as rich_console

from preftune import command_line, config
from preftune.data.ledger import Ledger, SplitLedger, TopKCut
from preftune.data.loading import PreparedPairs
from preftune.data.selection import select
from preftune.data.store import Numbers
from preftune.data.table import PairTable
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.reporting import pairs_terminal
from preftune.reporting.inert import inert
from preftune.reporting.pair_report import BINS, LengthBias, PairReport, Quartile, Shares
from preftune.reporting.pairs import length_bias, lengths, quantile, report_pairs, score_histogram, shares
from preftune.tokens.tokenization import tokenize
from recipes import pairs as recipe
from tests import stock

CONF = Path(__file__).parents[1] / "conf"
CHATML = ChatTokenizer(stock.tokenizer(stock.CHATML), "<|im_end|>")


def tokens(*counts: int) -> Numbers:
    return np.array(counts)


def report_of(pairs: list[PreferencePair] | PairTable, held_out: int = 50, **choices: Any) -> PairReport:
    """Report on `pairs` as a run would that holds out `held_out` more."""
    before = choices.pop("dropped", {})
    read = len(pairs) + held_out + sum(before.values())
    train = SplitLedger("made", read=read, dropped={**before, "held out": held_out})
    train.top_k = choices.pop("cut", None)
    train.shared_prompts, train.conflicting = choices.pop("shared_prompts", 0), choices.pop("conflicting", 0)
    table = pairs if isinstance(pairs, PairTable) else stock.table(pairs)
    rows = tokenize(table, CHATML, max_length=choices.get("max_length"), overlong=choices.pop("overlong", "stop"))
    train.dropped |= rows.dropped
    train.truncated = rows.truncated
    prepared = PreparedPairs(table, table, Ledger(train, SplitLedger("made", read=held_out)), None, "")
    return report_pairs(prepared, rows, CHATML, **{"batch": 2, "max_length": None, "seed": 0, "reads": ()} | choices)


def printed(monkeypatch: pytest.MonkeyPatch, report: PairReport, **console: Any) -> str:
    made = rich_console.Console(width=80, record=True, file=io.StringIO(), highlight=False, **console)
    monkeypatch.setattr(pairs_terminal, "Console", lambda **_: made)
    pairs_terminal.print_pairs(report, Path("pairs/x.html"))
    return made.export_text(styles=console.get("force_terminal", False))


def test_a_quantile_is_one_of_the_values() -> None:
    values = [40, 10, 30, 20]
    assert [quantile(tokens(*values), share) for share in (0.25, 0.5, 0.51, 0.95, 1.0)] == [10, 20, 30, 40, 40]


def test_a_histogram_counts_every_pair_in_bins_of_one_width() -> None:
    found = lengths(tokens(1, 1, 2, 2 * BINS))
    assert (found.least, found.median, found.p95, found.most) == (1, 1, 64, 64)
    assert found.histogram == (3, *[0] * (BINS - 2), 1)  # 63 / 32 tokens a bin: 1 and 2 share the first
    assert lengths(tokens(8, 9)).histogram == (1, *[0] * (BINS - 2), 1)
    assert lengths(tokens(7, 7)).histogram == (2, *[0] * (BINS - 1))


def test_the_histogram_shows_one_pair_among_many() -> None:
    assert pairs_terminal.bars(lengths(tokens(*[1] * 100, BINS, *[BINS // 2] * 50))) == (
        "█" + " " * (BINS // 2 - 2) + "▄" + " " * (BINS // 2 - 1) + "▁"
    )


def test_length_bias_leaves_answers_of_one_length_aside() -> None:
    found = length_bias(tokens(5, 4, 3, 2), tokens(2, 3, 4, 2))
    # The differences are +3, +1, -1 and 0: three that differ, in parts of 0, 1, 1 and 1.
    parts = (Quartile(1, 1, longer=1, pairs=1), Quartile(1, 1, longer=0, pairs=1), Quartile(3, 3, longer=1, pairs=1))
    assert found == LengthBias(longer=2, shorter=1, equal=1, median_difference=0.5, quartiles=parts)
    assert found.share == pytest.approx(2 / 3)
    assert length_bias(tokens(2), tokens(2)).share == 0.5


def test_the_bias_of_a_quartile_is_that_of_pairs_that_differ_about_as_much() -> None:
    # Shorter by 1 and 2, longer by 3 to 8.
    found = length_bias(10 + tokens(-1, 8, 3, -2, 4, 7, 5, 6), tokens(*[10] * 8))
    assert found.quartiles == (Quartile(1, 2, 0, 2), Quartile(3, 4, 2, 2), Quartile(5, 6, 2, 2), Quartile(7, 8, 2, 2))


def test_a_histogram_of_scores_takes_any_finite_numbers() -> None:
    assert score_histogram(np.array([0.0, 0.0, 1.0, 32.0])) == (2, 1, *[0] * (BINS - 3), 1)
    assert score_histogram(np.array([2.5, 2.5])) == (2, *[0] * (BINS - 1))
    assert score_histogram(np.array([-1.7e308, 0.0, 1.7e308])) == (1, *[0] * 15, 1, *[0] * 14, 1)


def test_shares_count_the_prompt_twice_and_pad_both_answers_to_one_length() -> None:
    # Tokens: 2 * 4 + 2 + 6 = 16 and 2 * 2 + 2 + 2 = 8. Together both are 10 wide: 4 * 10 = 40 places for 24.
    rows = tokens(4, 2), tokens(2, 2), tokens(6, 2)
    assert shares(*rows, 2, seed=0) == Shares(loss=12 / 24, second_prompt=6 / 24, padding=1 - 24 / 40, batch=2)
    # Alone: 2 * 10 + 2 * 4 = 28 places.
    assert shares(*rows, 1, seed=0).padding == pytest.approx(1 - 24 / 28)


def test_padding_is_that_of_a_random_order() -> None:
    # Sorted, each batch holds one length and nothing is padded.
    answers = tokens(*(1, 1, 9, 9) * 10)
    assert shares(tokens(*[1] * 40), answers, answers, 2, seed=0).padding > 0.1


def test_answers_whose_length_gives_the_label_away_are_warned_of() -> None:
    made = [PreferencePair(({"role": "user", "content": "a"},), "b " * n, "b b b", f"x:{n}") for n in (5, 6, 7, 1)]
    assert report_of(made).warnings == (
        "75 % of preferred answers are the longer one, of 4 pairs whose answers differ in length: the policy may "
        "learn the length",
    )
    swapped = [PreferencePair(one.prompt, one.rejected, one.chosen, one.origin) for one in made]
    assert report_of(swapped).warnings[0].startswith("75 % of preferred answers are the shorter one, of 4 pairs")


def balanced(count: int = 4, score: float | None = None) -> list[PreferencePair]:
    """Return pairs without a length bias."""
    extras = {} if score is None else {"score": score}
    texts = [("one two three", "one"), ("one", "one two three")]
    return [
        PreferencePair(({"role": "user", "content": f"Ask {n}"},), *texts[n % 2], f"x:{n}", extras)
        for n in range(count)
    ]


def test_a_sound_set_is_not_warned_of() -> None:
    assert report_of(balanced()).warnings == ()


def test_a_small_held_out_split_is_warned_of_with_its_standard_error() -> None:
    assert report_of(balanced(), held_out=25).warnings == (
        "the held-out split holds fewer than 50 pairs, 25: the standard error of its accuracy is about 10 points",
    )


def test_cut_and_dropped_pairs_are_warned_of() -> None:
    longest = report_of(balanced()).longest[0].tokens
    cut = report_of(balanced(), max_length=longest - 1, overlong="cut")
    assert cut.warnings == (
        f"4 of 54 pairs were cut at train.max_length={longest - 1}: an answer without its end token does not teach "
        "to stop",
    )
    long = PreferencePair(({"role": "user", "content": "a"},), "b " * 90, "c", "x:9")
    dropped = report_of([*balanced(), long], max_length=longest, overlong="drop")
    assert dropped.warnings == (
        f"1 of 5 train pairs were dropped for their length at train.max_length={longest}: raise it, or the model sees "
        "short pairs alone",
    )


def test_ties_at_the_cut_of_top_k_are_counted_and_warned_of() -> None:
    made = [
        PreferencePair(one.prompt, one.chosen, one.rejected, one.origin, {"score": 2.0 if place < 2 else 1.0})
        for place, one in enumerate(balanced(7))
    ]
    account = SplitLedger("x", read=7)
    settings = stock.data_settings(Path("x.jsonl"), score="score", top_k=4)
    kept = list(select(stock.table(made), settings, account))
    assert account.top_k == TopKCut(score=1.0, kept=2, dropped=3)
    found = report_of(kept, cut=account.top_k)
    assert "5 pairs tie at the cut of top_k, at a score of 1: 2 of them were kept, by content hash" in found.warnings
    assert found.scores
    assert (found.scores.least, found.scores.median, found.scores.most) == (1.0, 1.0, 2.0)


def test_a_top_k_that_drops_nothing_has_no_cut() -> None:
    account = SplitLedger("x", read=4)
    select(stock.table(balanced(score=1.0)), stock.data_settings(Path("x.jsonl"), score="score", top_k=4), account)
    assert account.top_k is None


def with_extras(*extras: dict[str, float]) -> list[PreferencePair]:
    return [
        PreferencePair(one.prompt, one.chosen, one.rejected, one.origin, given)
        for one, given in zip(balanced(len(extras)), extras, strict=True)
    ]


def test_a_score_of_0_is_counted_and_warned_of() -> None:
    found = report_of(with_extras({"score": 0.0}, {"score": 1.0}, {"score": -0.0}, {"score": -1.0}))
    assert found.scores
    assert found.scores.zero == 2
    assert found.warnings == (
        "2 of 4 train pairs have a score of 0: neither answer was found better, yet one is trained as preferred; "
        "data.ties=drop leaves them out",
    )


def test_numbers_that_travel_with_pairs_are_named() -> None:
    found = report_of(with_extras({"score": 1.0, "weight": 2.0}, {"probability": 0.5}, {"weight": 1.0}, {}))
    assert found.extras == {"probability": 1, "weight": 2}
    assert found.warnings == (
        "1 of 4 train pairs carry a probability: only a loss that reads it is moved by it, and one that does not "
        "trains every pair alike",
        "2 of 4 train pairs carry a weight: only a loss that reads it is moved by it, and one that does not trains "
        "every pair alike",
    )


def test_a_number_that_the_loss_reads_is_counted_and_not_warned_of() -> None:
    pairs = with_extras({"weight": 2.0}, {"probability": 0.5}, {"weight": 1.0}, {})
    found = report_of(pairs, reads=("weight", "probability"))
    assert found.extras == {"probability": 1, "weight": 2}
    assert found.warnings == ()


def test_prompts_shared_with_the_held_out_split_and_duplicates_are_counted() -> None:
    dropped = {"duplicate": 3, "prompt in the held-out split": 31}
    found = report_of(balanced(), dropped=dropped, shared_prompts=20, conflicting=4)
    assert (found.duplicates, found.overlap) == (3, 31)
    assert found.warnings == (
        "the held-out split shares 20 prompts with train: the 31 train pairs that hold them were dropped",
        "4 train pairs contradict each other, the same two answers being preferred in both orders; data.conflicts says "
        "what becomes of them",
    )


def test_answers_that_repeat_their_prompt_are_warned_of() -> None:
    asked = "What is the capital of Peru?"
    turns = ({"role": "user", "content": asked},)
    texts = [("Lima.", "Cusco."), (f"{asked} Lima.", "Cusco."), (f"{asked} Lima.", f"{asked}\nCusco.")]
    made = [PreferencePair(turns, chosen, rejected, f"x:{n}") for n, (chosen, rejected) in enumerate(texts)]
    made += [PreferencePair(({"role": "user", "content": "Hi"},), "Hi there.", "Hi you.", "x:9")]
    assert (
        "1 train pairs begin both answers with the text of their prompt: where it was put there by mistake, the user's "
        "turn is trained on"
    ) in report_of(made).warnings


def test_many_wrong_rows_are_warned_of_and_few_are_not() -> None:
    # Read are 4 kept, 50 held out and the wrong: 6 of 60 is a tenth, 7 of 61 is more.
    assert report_of(balanced(), dropped={"wrong: chosen must not be empty": 6}).warnings == ()
    assert report_of(balanced(), dropped={"wrong: a must be b": 3, "wrong: c must be d": 4}).warnings == (
        "7 of 61 train rows were wrong and dropped: see whether the dialect fits",
    )


def test_pairs_are_counted_by_source_the_most_frequent_first() -> None:
    made = balanced(6)
    stores = [*stock.table(made[:2], name="b.json").stores, *stock.table(made[2:], name="a.json").stores]
    assert list(report_of(PairTable(stores)).sources.items()) == [("a.json", 4), ("b.json", 2)]


def test_the_longest_pairs_are_named_by_origin() -> None:
    long = PreferencePair(({"role": "user", "content": "a"},), "b " * 90, "c", "x:9")
    found = report_of([*balanced(8), long]).longest
    assert found[0].origin == "x:9"
    assert len(found) == 5
    assert found[0].tokens > found[1].tokens


def test_decoded_pairs_hold_every_token_and_know_where_the_answer_ends() -> None:
    example = report_of(balanced(1)).examples[0]
    assert example.prompt == "<|im_start|>user\nAsk 0<|im_end|>\n<|im_start|>assistant\n"
    assert (example.chosen.text, example.chosen.end) == ("one two three", "<|im_end|>\n")
    assert (example.rejected.text, example.rejected.end) == ("one", "<|im_end|>\n")


def test_a_report_is_json() -> None:
    found = json.loads(json.dumps(report_of(balanced(score=1.0)).to_json()))
    bias = found["length_bias"]
    assert (bias["longer"], bias["shorter"], bias["equal"], bias["median_difference"]) == (2, 2, 0, 0.0)
    assert len(bias["quartiles"]) == 4
    assert found["scores"]["zero"] == 0
    assert found["ledger"]["train"]["kept"] == 4


def test_piped_the_trained_tokens_stand_in_brackets_and_nothing_is_wider_than_80(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = printed(monkeypatch, report_of(balanced(score=1.0)))
    assert "prompt    <|im_start|>user↵" in text
    assert "[[one two three{{<|im_end|>↵}}]]" in text
    assert re.search(r"│ - held out +│ +-50 │ +│", text)
    assert re.search(r"│ = kept +│ +4 │ +50 │", text)
    assert max(map(len, text.splitlines())) <= 80


def test_an_answer_that_was_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    long = PreferencePair(({"role": "user", "content": "a"},), "b " * 90, "c", "x:9")
    text = printed(monkeypatch, report_of([long], max_length=60, overlong="cut"))
    assert "b]] cut, no end token" in text
    assert "[[c{{<|im_end|>↵}}]]" in text


def test_at_the_terminal_trained_tokens_are_green_and_their_end_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, report_of(balanced(1)), force_terminal=True, color_system="standard")
    assert "\x1b[32mone\x1b[0m\x1b[7;32m<|im_end|>↵\x1b[0m" in text
    assert "[[" not in text


def test_markup_and_control_characters_of_rows_are_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = PreferencePair(
        ({"role": "user", "content": "[/b] \x1b[2J \u202eevil"},),
        "[red]x[/red]",
        "[/foo] \x07",
        "[/bold]\x1b]0;t.json:1",
    )
    text = printed(monkeypatch, report_of([hostile]))
    for raw in ("[/b] ", "[red]x[/red]", "[/foo] ", "[/bold]"):
        assert raw in text
    for control in "\x1b\x07\u202e":
        assert control not in text


def test_inert_text_keeps_lines_and_can_be_encoded() -> None:
    assert inert("a\nb\tc\r\ud800é") == "a\nb\tc\ufffd\ufffdé"


def test_the_command_looks_at_a_run_and_writes_its_page(
    chatml_model: Path,
    pair_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    local = (f"model.path={chatml_model}", f"data.path={pair_file}", "data.test_size=2")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = compose("run", ["model=local", "data=jsonl", *local])
    (chatml_model / "model.safetensors").rename(tmp_path / "weights")
    try:
        recipe.look(config.load(choices), OmegaConf.to_container(choices, resolve=True))  # type: ignore[arg-type]
    finally:
        (tmp_path / "weights").rename(chatml_model / "model.safetensors")
    text = capsys.readouterr().out
    assert re.search(r"│ read +│ +22 │ +2 │", text)
    assert "batches of 8 pairs" in text
    assert "warning: the held-out split holds fewer than 50 pairs, 2:" in text
    (page,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert re.fullmatch(r"pairs/local-jsonl-sigmoid-[0-9a-f]{8}\.html", str(page.relative_to(tmp_path)))
    assert text.endswith(f"page: {page.relative_to(tmp_path)}\n")


def test_a_terminal_that_is_not_utf_8_gets_bars_it_can_print(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    made = rich_console.Console(width=80, file=stream)
    monkeypatch.setattr(pairs_terminal, "Console", lambda **_: made)
    pairs_terminal.print_pairs(report_of(balanced()), Path("pairs/x.html"))
    stream.flush()
    text = raw.getvalue().decode()
    assert "[[one two three{{<|im_end|>?}}]]" in text
    assert re.search(r"\| chosen .*@ +@ \|", text)


def test_the_command_line_leaves_one_page_and_refuses_a_sweep(pair_file: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="-m must be left out, since this program looks at one run at a time"):
        command_line.checked(["-m", "seed=1,2"], CONF, sweeps=False)
    done = subprocess.run(
        [sys.executable, "-m", "recipes.pairs", "data=jsonl", f"data.path={pair_file}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{CONF.parent}:{CONF.parent / 'src'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "what became of every row" in done.stdout
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".html"]
