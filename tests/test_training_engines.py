"""Which engine a run gets, and what it says of it; and that two processes train as one."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.engine.layout import pair_tokens
from preftune.engine.packing import by_turns
from preftune.refusals import Refusal, RunFailed
from preftune.training.engines import Shared, Stock
from tests.engine import RAGGED, batch
from tests.engine_runs import build, of_family, run, weights


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, in one line."""
    return " ".join(capsys.readouterr().out.split())


def test_auto_says_how_near_to_stock_trl_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = build("auto")
    assert trainer.engine.name == "shared"
    assert re.search(r"engine: shared; within \de-\d\d nats of stock TRL over 8 completions", said(capsys))


@pytest.mark.parametrize("engine", ["trl", "shared"])
def test_an_engine_that_is_asked_for_is_taken_without_a_word(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(engine).engine.name == engine
    assert "engine:" not in said(capsys)


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a window shorter than the longest sequence": (
        {"family": "mistral", "sliding_window": 127},
        "the model attends 127 tokens back, and a sequence may have 128 tokens",
    ),
    "linear attention": (
        {
            "family": "qwen3_5_text",
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "the model has layers of full_attention, linear_attention, which mix tokens along the row",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_the_shared_pass_does_not_take_trains_with_stock_trl(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, reason = UNFIT[case]
    policy = of_family(**fields)
    done = run("auto", kind="full", policy=policy, max_steps=1)
    assert f"engine: trl, as {reason}" in said(capsys)
    assert done.trainer.engine.name == "trl"
    assert done.movement.any()
    with pytest.raises(Refusal, match=re.escape(f"engine must be trl or auto for this model, got shared: {reason}")):
        build("shared", kind="full", policy=policy)


def test_a_compiled_model_trains_with_stock_trl(capsys: pytest.CaptureFixture[str]) -> None:
    assert build("auto", torch_compile=True).engine.name == "trl"
    assert "engine: trl, as the model is compiled" in said(capsys)
    with pytest.raises(Refusal, match="engine must be trl or auto for this model, got shared: the model is compiled"):
        build("shared", torch_compile=True)


def test_a_bias_by_the_distance_along_the_row_falls_back_by_number_and_names_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = of_family(
        "mpt", attn_implementation="eager", d_model=32, n_heads=4, n_layers=2, max_seq_len=256, no_bias=True
    )
    trainer = build("auto", kind="full", policy=policy)
    assert trainer.engine.name == "trl"
    found = re.search(
        r"engine: trl, as the shared pass gives the (chosen|rejected) answer of pairs\.jsonl:(\d+) a log-probability "
        r"that differs from stock TRL's by (\S+) nats, (\S+) a token, above 0\.0001",
        said(capsys),
    )
    assert found
    assert float(found[3]) >= float(found[4]) > 1e-4
    trainer.train()
    assert trainer.verified is not None


def test_a_forced_shared_pass_that_differs_is_caught_by_the_check() -> None:
    policy = of_family(
        "mpt", attn_implementation="eager", d_model=32, n_heads=4, n_layers=2, max_seq_len=256, no_bias=True
    )
    with pytest.raises(RunFailed, match=r"must equal the one computed from scratch within 0\.0001 nats per token"):
        run("shared", kind="full", policy=policy)


def test_a_model_whose_code_knows_no_such_mask_falls_back_with_its_own_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = of_family("bloom", attn_implementation="eager", n_layer=2, n_head=4)
    trainer = build("auto", kind="full", policy=policy)
    assert trainer.engine.name == "trl"
    assert "engine: trl, as the shared pass does not run on this model: ValueError: too many values" in said(capsys)
    assert trainer.model.training
    trainer.train()
    assert trainer.verified is not None


def test_a_run_that_falls_back_keeps_its_own_attention() -> None:
    policy = of_family("opt", ffn_dim=32, word_embed_proj_dim=32)
    trainer = build("auto", kind="full", policy=policy)
    assert trainer.engine.name == "trl"
    for each in (trainer.model, trainer.ref_model):
        assert each.config._attn_implementation == "sdpa"


def test_stock_trl_parts_a_step_by_pairs_and_the_shared_pass_by_tokens() -> None:
    made = batch(RAGGED)
    sizes = pair_tokens(made["input_ids"], made["attention_mask"])
    shared = Shared("blocks", torch.no_grad)
    assert Stock().parts(made, 3, 12) == shared.parts(made, 3, None) == [[0, 1, 2], [3, 4, 5], [6]]
    parts = shared.parts(made, 3, 12)
    assert max(sum(sizes[place] for place in part) for part in parts) <= 12
    assert len(parts) > 3


# By this budget one process would cut its four pairs of the first step into two micro-batches, the other into three.
TWO = {"global_batch_size": 8, "per_device_train_batch_size": 1, "tokens_per_batch": 130, "max_steps": 2}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_training_engines", str(tmp_path)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=(tmp_path / f"out{rank}").open("w"),
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
        )
        for rank in range(2)
    ]
    try:
        for rank, process in enumerate(processes):
            assert process.wait(timeout=120) == 0, (tmp_path / f"out{rank}").read_text()
    finally:
        for process in processes:
            process.kill()
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = run("shared", **TWO)
    ours, other, whole = both[0]["events"], both[1]["events"], alone.events
    alone_cut = [[len(by_turns(tokens, 130)) for tokens in each["tokens"]] for each in both]
    assert alone_cut[0] != alone_cut[1]
    assert [event["loss"] for event in ours] == pytest.approx(alone.losses, abs=1e-5)
    for name in ("logratio/margin", "logratio/margin_p95", "logps/chosen_per_token", "length/chosen", "accuracy"):
        assert [event[name] for event in ours] == [event[name] for event in other]
        assert [event[name] for event in ours] == pytest.approx([event[name] for event in whole], abs=1e-3)
    tokens_of_a_pair = [event["speed/tokens_per_second"] / event["speed/pairs_per_second"] for event in ours]
    assert tokens_of_a_pair == pytest.approx(
        [event["speed/tokens_per_second"] / event["speed/pairs_per_second"] for event in whole]
    )
    expected = weights(alone.trainer)
    for each in both:
        got = torch.tensor(each["weights"], dtype=torch.float64)
        assert float((got - expected).norm() / alone.movement.norm()) < 1e-4


def one_of_two(directory: Path) -> None:
    """Train as one of the processes, and write down what came of it."""
    trainer = build("shared", **TWO)
    tokens: list[list[int]] = []
    collate = trainer.data_collator

    def recorded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = collate(rows)
        tokens.append(pair_tokens(made["input_ids"], made["attention_mask"]))
        return made

    trainer.data_collator = recorded
    events: list[dict[str, float]] = []
    trainer.report_to(lambda step, steps: None, lambda logs, step: events.append(dict(logs)))
    trainer.train()
    events = [event for event in events if "loss" in event]
    found = {"events": events, "tokens": tokens, "weights": weights(trainer).tolist()}
    (directory / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]))
