"""A run's own report: what it shows of each file, what it makes of missing and torn ones, text that stays text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from preftune.reporting.run_page import run_page
from preftune.reporting.samples import differences
from tests import sweeps
from tests.pages import HOSTILE, SHOWN, Parsed, harmless

FILES = (
    *("config.yaml", "manifest.json", "status.json", "plan.json", "ledger.json", "data.json", "summary.json"),
    *("metrics.jsonl", "samples.jsonl", "traceback.txt"),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return sweeps.write_run(tmp_path / "run", sweeps.configuration(0.1, 0), sweeps.events(0.1, 0))


def text(path: Path) -> str:
    page = Parsed(run_page(path))
    assert harmless(page)
    return page.text


def test_a_complete_run_shows_its_verdict_first_and_then_all_parts(run: Path) -> None:
    shown = text(run)
    heads = [
        "healthy: The policy is healthy, as this sentence says.",
        *("What training changed", "Plan", "Curves", "Pairs", "What became of every row", "Lengths"),
        *("Answers of reference and policy", "Where the time went", "Environment", "Settings"),
    ]
    assert [shown.index(head) for head in heads] == sorted(shown.index(head) for head in heads)
    assert "sigmoid, beta 0.1" in shown
    assert "torch 2.13.0+cpu" in shown
    assert "learning_rate: 0.0015" in shown


def test_what_training_changed_has_start_end_and_difference(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    before, after = (summary[name]["accuracy"] for name in ("eval_start", "eval"))
    shown = text(run)
    assert f"accuracy{before:.4f}{after:.4f}{after - before:+.4f}" in shown
    assert "true reward0.300± 0.680" in shown
    assert "win rate over the reference0.5000.800± 0.050+0.300" in shown


def test_the_verified_line_has_all_losses_and_the_largest_difference(run: Path) -> None:
    assert (
        "Verified: loss 0.693147, scratch 0.693147, TRL 0.693147; largest difference 7e-06 nats over 32 sequences; "
        "gradient norm 0.880257, scratch 0.880257. It was trained by the shared engine."
    ) in text(run)
    sweeps.change(run / "summary.json", verified=None)
    assert "Not verified: verify is off, or the run ended before its summary." in text(run)


def test_training_and_held_out_stand_on_one_chart(run: Path) -> None:
    html = run_page(run)
    loss = next(card for card in html.split('<section class="card">') if card.startswith("<h3>Loss</h3>"))
    assert [len(points.split()) for points in re.findall(r'<polyline class="line" points="([^"]*)"', loss)] == [
        sweeps.STEPS,
        sweeps.POINTS + 1,
    ]
    assert "held out" in loss
    assert "training" in loss


def test_a_failed_run_has_its_reason_and_the_end_of_its_traceback_on_top(run: Path) -> None:
    traceback = "\n".join(f"line {place}" for place in range(40)) + "\nMemoryError: too much"
    sweeps.fail(run, "out of memory: 3 GiB", traceback)
    shown = text(run)
    assert "failed: out of memory: 3 GiB" in shown
    assert "The last 24 of 41 lines of traceback.txt" in shown
    assert "MemoryError: too much" in shown
    assert "line 16\n" not in shown
    assert shown.index("MemoryError") < shown.index("Plan")
    assert "Curves" in shown  # what was logged until then


def test_a_run_that_was_stopped_or_killed_says_so(run: Path) -> None:
    sweeps.change(run / "status.json", state="preempted", reason="interrupted by Ctrl-C", step=7)
    assert "preempted: interrupted by Ctrl-C" in text(run)
    assert "7 of 40 steps" in text(run)
    sweeps.change(run / "status.json", state="running", reason=None)
    assert "running: it goes on, or was killed before it could say why" in text(run)


def test_a_run_that_failed_before_anything_was_loaded_has_its_settings(run: Path) -> None:
    sweeps.fail(run, "no such model")
    sweeps.change(run / "status.json", step=0, max_steps=0)
    for name in FILES:
        if name not in ("config.yaml", "manifest.json", "status.json"):
            (run / name).unlink(missing_ok=True)
    shown = text(run)
    assert "failed: no such model" in shown
    assert "before the first step" in shown
    assert "The run ended before it had one, or left none" in shown
    assert "learning_rate: 0.0015" in shown
    assert "Curves" not in shown


def test_the_states_of_a_run_are_told_in_their_order(run: Path) -> None:
    states = [{"step": 0, "word": "not_learning", "sentence": "x"}, {"step": 20, "word": "healthy", "sentence": "y"}]
    sweeps.change(run / "summary.json", verdicts=states)
    shown = text(run)
    assert shown.index("step 0: not_learning") < shown.index("step 20: healthy")


def test_steps_that_stood_out_are_told_with_their_rows(run: Path) -> None:
    assert "Steps" not in text(run)
    spike = {"step": 31, "loss": 3.21987, "median": 0.5, "deviations": 40.0, "rows": ["a.jsonl:7", "a.jsonl:<9>"]}
    left_out = [{"step": 33, "what": "gradient", "rows": ["a.jsonl:8"]}, {"step": 40, "what": "weights", "rows": None}]
    sweeps.change(run / "summary.json", spikes=[spike], left_out=left_out)
    shown = text(run)
    assert "Steps whose loss jumpedstep 31: 3.22, median before it 0.5; a.jsonl:7, a.jsonl:<9>" in shown
    assert "Steps that were left outstep 33: gradient; a.jsonl:8step 40: weights" in shown
    assert "<9>" not in run_page(run)


def test_sources_are_told_where_there_are_several(run: Path) -> None:
    assert "By source" not in text(run)
    found = {"accuracy": 0.75, "margin": 3.0, "pairs": 1200}
    sweeps.change(run / "summary.json", sources={"one": found, "two": {**found, "margin": None}})
    assert "one0.7503.001,200" in text(run)
    assert "two0.750-1,200" in text(run)


def test_a_stream_which_has_no_data_report_shows_its_ledger(run: Path) -> None:
    (run / "data.json").unlink()
    shown = text(run)
    assert "Pairs" in shown
    assert "held out\u2212256" in shown
    assert "Lengths" not in shown


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_torn_anywhere_leaves_a_page_still(run: Path, name: str) -> None:
    sweeps.change(run / "summary.json", verdicts=[{"step": 1, "word": "healthy", "sentence": "x"}] * 2)
    (run / "traceback.txt").write_text("Traceback\nError: é\n", encoding="utf-8")
    whole = (run / name).read_bytes()
    for end in [*range(0, len(whole), max(1, len(whole) // 12)), len(whole) - 1]:
        (run / name).write_bytes(whole[:end])
        assert "Plan" in text(run)
    (run / name).unlink()
    assert "Plan" in text(run)


@pytest.mark.parametrize("value", [None, [], {}, 3, "text", [[1]], {"a": {"b": []}}, True, "\u2028", 10**400])
def test_files_that_hold_something_else_leave_a_page_still(run: Path, value: Any) -> None:
    for name in FILES:
        (run / name).write_text(json.dumps(value), encoding="utf-8")
    assert "Plan" in text(run)


@pytest.mark.parametrize("value", [None, [], "nan", "text", True, {"mean": "inf"}, 10**400])
def test_keys_that_hold_something_else_leave_a_page_still(run: Path, value: Any) -> None:
    for name in ("summary.json", "status.json", "manifest.json", "ledger.json", "data.json"):
        keys = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps(dict.fromkeys(keys, value)), encoding="utf-8")
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
        changed = [json.dumps({key: value if key != "step" else old for key, old in line.items()}) for line in lines]
        (run / name).write_text("\n".join(changed), encoding="utf-8")
    assert "Plan" in text(run)


def test_a_directory_that_is_not_there_has_a_page_too(tmp_path: Path) -> None:
    assert "its state is not known" in text(tmp_path / "gone")


def test_text_of_every_file_makes_no_element(run: Path) -> None:
    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(each) for key, each in value.items()}
        if isinstance(value, list):
            return [replaced(each) for each in value]
        return HOSTILE if isinstance(value, str) else value

    plain = Parsed(run_page(run)).tags
    for name in ("manifest.json", "plan.json", "data.json", "summary.json", "ledger.json"):
        value = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps(replaced(value)), encoding="utf-8")
    for name in ("samples.jsonl",):
        lines = [replaced(json.loads(line)) for line in (run / name).read_text(encoding="utf-8").splitlines()]
        (run / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    sweeps.change(run / "status.json", state="failed", reason=HOSTILE)
    sweeps.change(run / "summary.json", sources={HOSTILE: {"accuracy": 0.5}}, seconds={HOSTILE: 3.0})
    (run / "traceback.txt").write_text(HOSTILE, encoding="utf-8", errors="replace")
    hostile = Parsed(run_page(run))
    assert harmless(hostile)
    assert hostile.text.count(SHOWN) > 20
    assert set(hostile.tags) <= {*plain, "pre", "td", "p"}


def test_words_that_differ_are_marked_and_the_others_are_not() -> None:
    reference, policy = differences("It was a good day, all in all.", "It was a very bad day, all in all.")
    assert reference == "It was a <del>good</del> day, all in all."
    assert policy == "It was a <ins>very bad</ins> day, all in all."


def test_answers_that_are_the_same_are_said_to_be(run: Path) -> None:
    assert text(run).count("Both answers are the same.") == 4
    assert differences("a <b>", "a <b>") == ("a &lt;b&gt;", "a &lt;b&gt;")


def test_a_long_answer_is_cut_with_its_count() -> None:
    reference, policy = differences("word " * 5000, "")
    assert policy == ""
    assert '<span class="cut">17,000 more characters</span>' in reference


def test_more_samples_than_a_page_holds_are_counted(run: Path) -> None:
    line = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (run / "samples.jsonl").write_text("\n".join([line] * 100), encoding="utf-8")
    assert "36 more stand in samples.jsonl" in text(run)


def test_stages_are_drawn_by_their_share_of_the_time(run: Path) -> None:
    sweeps.change(run / "summary.json", seconds={"train": 30.0, "data": 10.0})
    html = run_page(run)
    assert 'style="width:75.000%" title="train: 30.0 s"' in html
    assert 'style="width:25.000%" title="data: 10.0 s"' in html
