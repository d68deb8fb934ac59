"""Evaluation points of real trainings: what is measured where, what they cost, and what they leave untouched."""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preftune.evaluating import answers
from preftune.evaluating.points import inner_steps
from preftune.evaluating.sampling import Answers, Spoken
from preftune.losses.logps import PairLogps
from preftune.reporting import summary
from preftune.training.metrics import pair_metrics
from tests import stock
from tests.point_runs import SIGMOID, Run, build, guard

KTO = {"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
Make = Callable[..., Run]


@pytest.fixture
def make(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Make:
    """Build a run on the pairs that other tests train on, or on those of a file."""

    def made(pairs: Path = pair_file, **settings: Any) -> Run:
        return build(chatml_model, pairs, tmp_path, **settings)

    return made


def summarised(run: Run, **seconds: float) -> dict[str, Any]:
    stages = {"data": 0.0, "reference": 0.0, "evaluate": 0.0, "train": 100.0} | seconds
    return summary.summarise(run.trainer.totals(), stages, run.points, run.trainer.verified)


@pytest.mark.parametrize(
    ("steps", "points", "expected"),
    [
        (40, 4, {10, 20, 30}),
        (40, 1, set()),
        (10, 4, {2, 5, 8}),  # 2.5 and 7.5 go to the even neighbour
        (3, 4, {1, 2}),
        (1, 4, set()),
    ],
)
def test_points_are_spread_evenly_and_start_and_end_are_not_among_them(
    steps: int, points: int, expected: set[int]
) -> None:
    assert inner_steps(steps, points) == expected


def test_each_point_is_an_event_of_pairs_and_one_of_samples_from_step_0(make: Make) -> None:
    run = make(max_steps=8).go()
    for name in ("eval_loss", "eval_logratio/margin_p05", "kl/sampled", "length/sampled", "adapter/moved"):
        assert list(run.having(name)) == [0, 2, 4, 6, 8]
    assert run.having("kl/sampled")[0] == run.having("adapter/moved")[0] == 0.0
    assert run.having("kl/sampled")[8] != 0.0
    assert run.having("adapter/moved")[8] == pytest.approx(1.0, abs=0.01)
    assert not run.having("win_rate")  # no true reward is known
    assert list(run.having("data/read").values()) == [22.0]
    assert run.having("data/kept") == {0: 16.0}
    assert run.having("data/dropped") == {0: 6.0}


def test_the_last_point_is_what_the_summary_tells(make: Make) -> None:
    run = make(max_steps=8).go()
    told = summarised(run)
    assert told["eval_start"]["kl_to_reference"] == 0.0
    assert told["eval"]["kl_to_reference"] == run.having("kl/sampled")[8]
    assert told["eval"]["margin_p95"] == run.having("eval_logratio/margin_p95")[8]
    assert told["length_sampled"] == run.having("length/sampled")[8]
    assert told["length_sampled_reference"] == run.having("length/sampled_reference")[0]
    assert told["adapter_moved"] == run.having("adapter/moved")[8]
    assert told["win_rate"] is told["true_reward"] is None
    assert told["sources"] == {}
    assert told["verdict"]["word"] == told["verdicts"][-1]["word"]


def test_the_reference_answers_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = answers.sample_reference
    monkeypatch.setattr(answers, "sample_reference", lambda *args, **keys: asked.append(1) or real(*args, **keys))
    run = make()
    run.points.measure_start()
    before = [row["reference"] for row in run.points.samples]
    run.trainer.train()
    run.points.measure_end()
    assert len(asked) == 1
    assert [row["reference"] for row in run.points.samples] == before


def test_a_policy_that_does_not_start_at_its_reference_is_sampled_at_the_start(make: Make, tmp_path: Path) -> None:
    from preftune.models.policy import save_policy

    trainer = make(max_steps=6, learning_rate=1e-2).go().trainer
    path = save_policy(trainer.model, trainer.processing_class, tmp_path / "earlier")
    run = make(adapter=stock.lora(path=str(path)))
    run.points.measure_start()
    assert run.having("kl/sampled")[0] != 0.0


@pytest.mark.parametrize("kind", ["sigmoid", "kto"])
def test_training_comes_to_the_same_bits_whatever_is_measured_on_the_way(make: Make, kind: str) -> None:
    live = {
        "adapter": stock.lora(dropout=0.3),
        "disable_dropout": False,
        "loss": {"sigmoid": SIGMOID, "kto": KTO}[kind],
    }
    often, once = make(**live, points=4).go(), make(**live, points=1).go()
    never = make(**live)
    never.trainer.remove_callback(never.points)
    never.trainer.train()
    assert torch.equal(often.weights(), never.weights())
    assert torch.equal(once.weights(), never.weights())
    for name in ("loss", "grad_norm", "logps/chosen_per_token"):
        assert often.having(name) == once.having(name) == never.having(name)
        assert list(often.having(name)) == [1, 2, 3, 4]


def test_an_evaluation_leaves_all_random_numbers_as_they_were(make: Make) -> None:
    run = make()

    def draw(*_: Any) -> None:
        random.random(), np.random.rand(), torch.rand(1)

    run.trainer.model.register_forward_hook(draw)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run.points.measure_start()
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_seconds_of_a_point_are_those_of_evaluation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = answers.sample_policy

    def slow(*args: Any, **keys: Any) -> Any:
        time.sleep(0.4)
        return real(*args, **keys)

    monkeypatch.setattr(answers, "sample_policy", slow)
    run = make()
    started = time.perf_counter()
    run.points.measure_start()
    run.trainer.train()
    spent = time.perf_counter() - started
    run.points.measure_end()
    totals = run.trainer.totals()
    assert 3 * 0.4 < totals.seconds_in_evaluation < spent
    told = summarised(run, evaluate=10.0)
    assert told["seconds"]["train"] == pytest.approx(100 - totals.seconds_in_evaluation - totals.seconds_in_reference)
    assert told["seconds"]["evaluate"] == pytest.approx(10 + totals.seconds_in_evaluation)
    assert told["pairs_per_second"] == pytest.approx(32 / (100 - totals.seconds_in_evaluation))
    trained = sum(8 / speed for speed in run.having("speed/pairs_per_second").values())
    assert trained < spent - totals.seconds_in_evaluation


def test_nothing_is_sampled_where_no_prompts_are_asked_for(make: Make) -> None:
    run = make(prompts=0).go()
    assert not run.having("kl/sampled")
    assert list(run.having("adapter/moved")) == list(run.having("eval_loss")) == [0, 1, 2, 3, 4]
    told = summarised(run)
    assert told["eval"]["kl_to_reference"] is told["length_sampled"] is told["kl_to_reference"] is None
    assert run.points.samples == []


def test_one_prompt_has_no_standard_error(make: Make) -> None:
    run = make(prompts=1)
    run.points.measure_start()
    assert "kl/sampled" in run.events[-1][1]
    assert not [name for name in run.events[-1][1] if name.endswith("_stderr")]


def test_evaluations_of_the_users_own_are_no_points(make: Make) -> None:
    run = make(points=2, eval_strategy="steps", eval_steps=1).go()
    assert list(run.having("eval_loss")) == [0, 1, 2, 3, 4]
    assert list(run.having("kl/sampled")) == [0, 2, 4]


def test_a_win_is_a_higher_true_reward_and_a_tie_one_half() -> None:
    said = [Spoken(texts, [3] * 4) for texts in (["a", "bb", "c", "d"], ["aa", "b", "c", "ddd"])]
    found = answers.MeasuredAnswers.of(Answers([()] * 4, *said, [0.0] * 4), lambda text: float(len(text)))
    # wins 1, 0, 1/2, 1: mean 0.625, squares of deviations 0.140625 + 0.390625 + 0.015625 + 0.140625 over 3
    assert found.metrics()["win_rate"] == 0.625
    assert found.metrics()["win_rate_stderr"] == pytest.approx((0.6875 / 3) ** 0.5 / 2)
    assert found.metrics()["true_reward/policy"] == 7 / 4
    assert found.metrics()["true_reward/reference"] == 5 / 4


def test_a_training_event_is_exact_over_all_pairs_since_the_last(make: Make) -> None:
    run = make(prompts=0, points=1, max_steps=5, logging_steps=2, learning_rate=1e-2)
    kept: list[PairLogps] = []
    keep = run.trainer.keep_trained
    run.trainer.keep_trained = lambda logps: kept.append(logps.sums()) or keep(logps)  # type: ignore[method-assign]
    run.go()
    assert [len(each.policy_chosen) for each in kept] == [4] * 10
    for step, micro_batches in ((2, kept[:4]), (4, kept[4:8]), (5, kept[8:])):
        expected = pair_metrics(PairLogps.concatenate(micro_batches))
        assert {name: run.having(name)[step] for name in expected} == expected
    apart = [pair_metrics(each)["logratio/margin_p95"] for each in kept[:4]]
    assert run.having("logratio/margin_p95")[2] != pytest.approx(sum(apart) / 4)


def test_a_training_event_says_what_a_step_costs(make: Make) -> None:
    run = make(prompts=0, points=1).go()
    for name in ("speed/pairs_per_second", "speed/tokens_per_second", "memory/peak_bytes", "grad_norm"):
        assert list(run.having(name)) == [1, 2, 3, 4]
        assert min(run.having(name).values()) > 0
    tokens = run.having("num_tokens")[4]
    ratios = [run.having(f"speed/{unit}_per_second") for unit in ("tokens", "pairs")]
    counted = sum(ratios[0][step] / ratios[1][step] * 8 for step in ratios[0])
    assert counted == pytest.approx(tokens)


def test_answers_trained_on_alone_have_the_names_of_their_sides(make: Make) -> None:
    run = make(loss=KTO, learning_rate=1e-2).go()
    for name in ("logps/chosen_per_token_change", "kl/chosen", "length/rejected", "logratio/chosen_falls"):
        assert list(run.having(name)) == [1, 2, 3, 4]
        assert list(run.having(f"eval_{name}")) == [0, 1, 2, 3, 4]
    assert list(run.having("eval_logratio/margin_p95")) == [0, 1, 2, 3, 4]
    assert not run.having("logratio/margin")  # the answers of a pair are not trained on together
    assert list(run.having("kl/sampled")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("loss", [SIGMOID, KTO])
def test_each_source_of_held_out_pairs_is_measured_apart(make: Make, tmp_path: Path, loss: dict[str, Any]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    made = stock.pairs(24)
    stock.write_pairs(files / "one.jsonl", made[:16])
    stock.write_pairs(files / "two.jsonl", made[16:])
    run = make(files / "*.jsonl", prompts=0, loss=loss, learning_rate=1e-2, data=[("test_size", 12)]).go()
    told = summarised(run)
    assert set(told["sources"]) == {"one.jsonl", "two.jsonl"}
    counts = [each["pairs"] for each in told["sources"].values()]
    margins = [each["margin"] for each in told["sources"].values()]
    assert min(counts) > 0
    assert sum(counts) == 12
    assert sum(n * m for n, m in zip(counts, margins, strict=True)) / 12 == pytest.approx(
        told["eval"]["logratio_margin"]
    )
    assert run.having("eval_sources/one.jsonl/pairs")[0] == counts[0]
    origins = {pair.origin for pair in run.points.prepared.pairs.held_out}
    assert counts[0] == sum(origin.startswith("one.jsonl:") for origin in origins)


def test_the_share_that_moved_is_counted_by_entries(make: Make) -> None:
    run = make()
    parameters = [p for p in run.trainer.model.parameters() if p.requires_grad]
    with torch.no_grad():
        parameters[0][0, :] += 1
        parameters[1].add_(1)
    changed = parameters[0].shape[1] + parameters[1].numel()
    assert run.trainer.moved() == pytest.approx(changed / sum(p.numel() for p in parameters))


def test_at_most_65536_entries_of_a_tensor_are_kept_from_all_of_its_columns() -> None:
    from preftune.training.measured import _spread

    column = torch.arange(256).repeat(1024, 1)
    kept = _spread(column)
    assert len(kept) <= 65_536
    assert set(kept.tolist()) == set(range(256))


def both_ways(path: Path) -> Path:
    """Write each pair twice, the second time with its answers exchanged: labels that hold nothing."""
    lines = []
    for pair in stock.pairs(22):
        for chosen, rejected in ((pair.chosen, pair.rejected), (pair.rejected, pair.chosen)):
            lines.append(json.dumps({"prompt": list(pair.prompt), "chosen": chosen, "rejected": rejected}))
    path.write_text("\n".join(lines))
    return path


def test_labels_that_hold_nothing_are_not_learned(make: Make, tmp_path: Path) -> None:
    run = make(both_ways(tmp_path / "both.jsonl"), learning_rate=1e-2).go()
    assert run.points.watch.verdict.word == "not_learning"
    assert [entered.step for entered in run.points.watch.entered] == [1, 4]


def test_a_rate_of_next_to_nothing_does_not_learn_which_is_news_only_at_the_end(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(learning_rate=1e-9).go()
    words = [(entered.step, entered.verdict.word) for entered in run.points.watch.entered]
    assert words == [(1, "healthy"), (4, "not_learning")]
    assert [title for title, _ in run.alerts] == ["not_learning at step 4"]
    assert " ".join(capsys.readouterr().out.split()).count("warning: not_learning at step 4: Held-out accuracy is") == 1


def test_a_large_beta_saturates_and_a_tiny_one_does_not(make: Make) -> None:
    words = {}
    for beta in (1.0, 1e-4):
        run = make(loss=SIGMOID | {"beta": beta}, learning_rate=1e-2, max_steps=12, prompts=0).go()
        words[beta] = run.points.watch.verdict.word
    assert words == {1.0: "saturated", 1e-4: "healthy"}


def test_a_state_in_stop_on_ends_the_training_at_the_point_that_finds_it(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(loss=SIGMOID | {"beta": 1.0}, learning_rate=1e-2, max_steps=12, judged_by=guard("saturated")).go()
    assert run.trainer.state.global_step == 3
    assert [step for step, event in run.events if "eval_loss" in event] == list(run.having("kl/sampled")) == [0, 3]
    told = summarised(run)
    assert told["steps"] == 3
    assert told["verdict"]["word"] == "saturated"
    assert told["verdict"]["sentence"].endswith("Stopped at step 3 of 12 by guard.stop_on.")
    assert told["verdicts"] == [run.points.watch.entered[0].to_json()]
    assert [title for title, _ in run.alerts] == ["saturated at step 3"]
    assert "warning: saturated at step 3: Held-out accuracy is 1.000" in " ".join(capsys.readouterr().out.split())
    assert run.trainer.totals().loss_last < run.trainer.totals().loss_first


def test_another_state_does_not_end_it(make: Make) -> None:
    run = make(loss=SIGMOID | {"beta": 1.0}, learning_rate=1e-2, max_steps=6, judged_by=guard("displaced")).go()
    assert run.trainer.state.global_step == 6
    assert "Stopped" not in summarised(run)["verdict"]["sentence"]


def test_every_metric_that_a_run_logs_is_documented(make: Make, tmp_path: Path) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    files = tmp_path / "files"
    files.mkdir()
    for name, part in (("one", stock.pairs(24)[:16]), ("two", stock.pairs(24)[16:])):
        stock.write_pairs(files / f"{name}.jsonl", part)
    logged: set[str] = set()
    term = {"nll": {"weight": 0.1, "limit": None, "rate": 0.0}}
    for loss in (SIGMOID | {"terms": term}, KTO):
        run = make(files / "*.jsonl", loss=loss, data=[("test_size", 12)], max_steps=1).go()
        logged |= {name for _, event in run.events for name in event}
    names = {re.sub(r"^(eval|train)_", "", name) for name in logged - {"train_loss"}} | {"train_loss"}
    names = {re.sub(r"/(one|two)\.jsonl/", "/<source>/", name).replace("terms/nll", "terms/<name>") for name in names}
    assert len(names) > 50
    stderr = {name for name in names if name.endswith("_stderr") and name.startswith("true_reward")}
    assert sorted(name for name in names - stderr if f"`{name}`" not in documented) == []


def test_what_was_trained_on_since_the_last_event_is_logged_where_a_point_ends_the_training(make: Make) -> None:
    saturates = {"loss": SIGMOID | {"beta": 1.0}, "learning_rate": 1e-2, "judged_by": guard("saturated")}
    run = make(**saturates, max_steps=12, logging_steps=2, prompts=0).go()
    assert run.trainer.state.global_step == 3
    assert list(run.having("logratio/margin")) == [2, 3]
