"""The plan and the tables, as they read at the terminal."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich import console as rich_console

from preftune.data.ledger import SplitLedger
from preftune.reporting import plan, terminal
from preftune.training.steps import Steps

START = {
    "loss": 0.6931,
    "accuracy": 0.5,
    "logratio_margin": 0.0,
    "chosen_logp_per_token": -1.0,
    "rejected_logp_per_token": -1.1,
}
SUMMARY: dict[str, Any] = {
    "eval_start": START | {"rewards/margins": 0.0, "kl_to_reference": 0.0},
    "eval": START | {"loss": 0.5, "accuracy": 0.75, "rewards/margins": 0.2, "kl_to_reference": 1.5},
    "length_sampled_reference": 31.04,
    "length_sampled": 28.5,
    "win_rate": {"mean": 0.75, "stderr": 0.05},
    "true_reward": {"reference": {"mean": 0.1, "stderr": 0.2}, "policy": {"mean": 3.1, "stderr": 0.25}},
    "verdict": {"word": "healthy", "sentence": "Held-out accuracy rose to 0.750."},
}


@pytest.mark.parametrize(
    ("labels", "weights", "expected"),
    [
        ((48, 48), (1.0, 1.0), "48 desirable, 48 undesirable"),
        ((40, 30), (1.0, 1.0), "40 desirable, 30 undesirable"),
        (
            (1500, 30),
            (1.0, 2.0),
            "1,500 desirable, 30 undesirable; weighted 1,500 to 60, where the paper keeps the ratio between 1 and 4/3",
        ),
        ((30, 40), (1.5, 1.0), "30 desirable, 40 undesirable"),
        ((30, 0), (1.0, 1.0), "30 desirable, 0 undesirable; with one label alone there is nothing to tell apart"),
    ],
)
def test_the_plan_says_what_labels_and_weights_come_to(
    labels: tuple[int, int], weights: tuple[float, float], expected: str
) -> None:
    parameters = {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    assert plan.labels_line(*labels, parameters) == expected


def printed(monkeypatch: pytest.MonkeyPatch, samples: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    console = rich_console.Console(file=stream, width=80)
    monkeypatch.setattr(terminal, "Console", lambda: console)
    terminal.print_results(Path("runs/tiny"), SUMMARY, samples)
    return stream.getvalue()


def test_the_table_shows_start_end_and_change_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, [])
    row = next(line for line in text.splitlines() if "accuracy" in line)
    assert row.replace("│", "").split() == ["accuracy", "0.5000", "0.7500", "+0.2500"]
    reward = next(line for line in text.splitlines() if "true reward" in line)
    assert reward.replace("│", "").split() == ["true", "reward", "0.100", "±", "0.200", "3.100", "±", "0.250", "+3.000"]
    length = next(line for line in text.splitlines() if "length of samples" in line)
    assert length.replace("│", "").split() == ["length", "of", "samples,", "tokens", "31.0", "28.5", "-2.5"]
    wins = next(line for line in text.splitlines() if "win rate" in line)
    assert wins.replace("│", "").split()[-5:] == ["0.500", "0.750", "±", "0.050", "+0.250"]
    assert max(map(len, text.splitlines())) <= 80
    assert text.rstrip().endswith("runs/tiny")


def test_text_of_models_is_not_read_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {"prompt": [{"role": "user", "content": "[/b] [red]"}], "reference": "[/foo]", "policy": "[bold]x[/bold]"}
    text = printed(monkeypatch, [sample])
    for raw in ("[/b] [red]", "[/foo]", "[bold]x[/bold]"):
        assert raw in text


def test_control_characters_of_models_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {"prompt": [{"role": "user", "content": "a\x1b[2Jb"}], "reference": "c\x1b]0;title\x07", "policy": "d"}
    assert "\x1b" not in printed(monkeypatch, [sample])


def test_the_plan_accounts_for_every_row() -> None:
    split = SplitLedger("pairs.jsonl", read=1234)
    split.drop("duplicate", 34)
    split.drop("below min_margin", 0)
    split.truncated = 7
    assert plan.account(split) == "1,200 kept of 1,234 read (34 duplicate); 7 cut at train.max_length"


def test_a_batch_larger_than_the_data_is_said() -> None:
    steps = Steps(pairs=20, steps=1, warmup_steps=0, accumulation=4, batch=32)
    assert plan.steps_line(steps) == "1, of which 0 warm up; all 20 pairs a step, fewer than train.global_batch_size=32"
