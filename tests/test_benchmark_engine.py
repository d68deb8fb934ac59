"""The benchmark of training gives finite numbers of both sides, which train the same."""

import json
import math
import mmap

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from preftune.benchmarking import memory, operations, workload
from preftune.engine.layout import lay_out
from preftune.models.policy import load_policy
from preftune.models.source import locate
from recipes import benchmark_engine, benchmark_table
from tests import stock

SMALL = ("data=jsonl", "data.test_size=2", "train.max_steps=2", "train.max_length=256", "model.dtype=float32")


def numbers(value):
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) else []


def test_both_sides_train_the_same_and_ours_takes_fewer_operations(chatml_model, pair_file, tmp_path, capsys):
    target = tmp_path / "found.json"
    benchmark_engine.main(
        [
            *SMALL,
            f"model.path={chatml_model}",
            f"data.path={pair_file}",
            *("--rounds", "1", "--only", "runs", "operations", "agreement", "--json", str(target)),
        ]
    )
    found = json.loads(target.read_text())
    assert len(numbers(found)) > 60
    assert all(math.isfinite(number) for number in numbers(found))
    runs, counted, agreement = found["runs"], found["operations"], found["agreement"]
    measured = {name: runs["measured"][name][0] for name in ("stock", "computed", "cached")}
    assert {run["pairs"] for run in measured.values()} == {16}
    assert len({run["tokens"] for run in measured.values()}) == 1
    assert all(len(run["losses"]) == 2 for run in measured.values())
    assert runs["computed"]["loss_difference"] < 1e-4
    assert runs["cached"]["loss_difference"] < 1e-4
    assert all(runs[name]["ratio"] > 0 and runs[name]["peak"] > 100 * 2**20 for name in measured)
    assert 0 < measured["stock"]["padding"] < 1
    assert 0 < measured["stock"]["repeated"] < 0.5
    for key in ("counted", "total"):
        assert counted["cached"][key]["of_stock"] < counted["computed"][key]["of_stock"] < 1
        assert counted["cached"][key]["of_floor"] >= 0.95
    assert agreement["logps"] < 1e-3
    assert agreement["gradients"] < 1e-4
    assert agreement["float64_logps"] < 1e-10
    assert agreement["float64_gradients"] < 1e-8
    said = capsys.readouterr().out
    assert "preftune, reference kept" in said
    assert "(shared)" in said


def test_a_dry_run_says_what_it_would_measure(pair_file, capsys):
    benchmark_engine.main(["--shape", "llama3_8b", "--path", str(pair_file), "--pairs", "50", "100", "--dry"])
    said = capsys.readouterr().out
    assert '"quantization": "nf4"' in said
    assert '"r": 32' in said
    assert "3 rounds of runs, sweep, operations, agreement, pairs 50, 100" in said


def test_an_override_takes_the_place_of_a_default(chatml_model, pair_file, tmp_path):
    asked = benchmark_engine.arguments(
        ["data=jsonl", f"model.path={chatml_model}", f"data.path={pair_file}", "adapter.r=2", "train.max_steps=5"]
    )
    values = benchmark_engine.composed(asked, tmp_path / "model")
    assert values["adapter"]["r"] == 2
    assert values["adapter"]["alpha"] == 16
    assert values["train"]["max_steps"] == 5
    assert values["model"]["path"] == str(chatml_model)
    assert not (tmp_path / "model").exists()


def test_the_table_compares_medians(capsys):
    def run(seconds, **more):
        held = {"peak": 2**30, "growth": 2**20, "pairs": 8, "trained": 8, "tokens": 800}
        return {**held, "seconds": seconds, "padding": 0.25, "repeated": 0.1, "losses": [0.5, 0.25], **more}

    runs = {
        "stock": [run(8.0), run(10.0), run(90.0)],
        "computed": [run(5.0, engine="shared"), run(4.0, engine="shared"), run(5.0, engine="shared")],
        "cached": [run(2.0, engine="shared", losses=[0.5, 0.5])] * 3,
    }
    found = benchmark_table.say_runs(runs)
    assert found["computed"]["ratio"] == 2.0
    assert found["computed"]["smallest_ratio"] == 1.6
    assert found["computed"]["largest_ratio"] == 18.0
    assert found["cached"]["pairs_per_second"] == 4.0
    assert found["cached"]["loss_difference"] == 0.25
    assert "25.0% is padding and 10.0% a prompt again" in capsys.readouterr().out


def test_attention_on_cpu_is_counted_beside_what_torch_counts():
    query = torch.randn(1, 2, 8, 4, requires_grad=True)
    with operations.counting() as found:
        scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
        linear(torch.ones(3, 5), torch.ones(7, 5))
    product = 2 * 2 * 8 * 8 * 4  # heads, queries, keys, width
    assert found.counted == 2 * 3 * 5 * 7
    assert found.attention == (2 + 5) * product // 2  # the backward pass computes the scores again


def test_the_floor_counts_each_unique_token_once(chatml_model):
    settings = stock.model_settings(chatml_model)
    policy = load_policy(settings, stock.lora(), locate(settings), seed=0)
    # two tokens of prompt; answers of three and two tokens that share their first
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 4, 0]])
    attention = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    completion = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]])
    found = operations.floor(policy, [lay_out(ids, attention, completion)])
    hidden, inner, keys, layers, rank = 64, 128, 32, 2, 4
    shapes = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    frozen = layers * sum(a * b for a, b in shapes)
    trained = layers * sum(rank * (a + b) for a, b in shapes)
    tokens, scored, seen = 6, 4, (1 + 2 + 3 + 4 + 5) + 4
    head = hidden * policy.config.vocab_size
    assert found.policy.counted == tokens * (4 * frozen + 6 * trained) + 4 * scored * head
    assert found.reference.counted == tokens * 2 * frozen + 2 * scored * head
    assert found.reference.attention == layers * 4 * hidden * seen
    assert found.policy.attention == 3 * found.reference.attention


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the process")
def test_memory_grows_by_what_is_held():
    with mapped(1 << 28):
        pass
    with memory.peak() as found, mapped(1 << 27):
        pass
    assert 0.9 * 2**27 < found.growth < 1.5 * 2**27
    assert found.highest > found.start


def mapped(size):
    """Hold `size` bytes that are new to the process: an allocator could take what was freed before it."""
    held = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        held[at] = 1
    return held


def test_the_made_model_is_that_of_the_benchmark(tmp_path, demo_pairs):
    made = workload.make_model(tmp_path / "model", "llama_8m", demo_pairs)
    settings = stock.model_settings(made)
    policy = load_policy(settings, stock.lora(), locate(settings), seed=0)
    base = [p for name, p in policy.named_parameters() if ".lora_" not in name]
    assert sum(p.numel() for p in base) == pytest.approx(8.5e6, rel=0.02)


def test_a_wrong_override_is_refused_by_name(pair_file, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark_engine.main(["model=lokal", f"data.path={pair_file}"])
    assert "model must be one of" in capsys.readouterr().err
