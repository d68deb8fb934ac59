"""Compare the estimate of memory with what a training takes at its highest, for models of three sizes.

Every training is a process of its own, whose freed memory goes back to the system at once.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIB = 2**20
# hidden size, layers, vocabulary, tokens of a sequence, pairs in a micro-batch
SIZES = ((256, 6, 16_000, 512, 4), (512, 8, 32_000, 768, 2), (768, 12, 32_000, 1024, 1))
# glibc keeps freed memory for itself, and more with every large block, unless it is told to give it back
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def benchmark(sizes: tuple[tuple[int, int, int, int, int], ...] = SIZES) -> list[dict[str, Any]]:
    """Print estimate and measurement of each size, with and without checkpointing; return what was measured."""
    found = []
    print("hidden x layers, vocabulary   sequence   checkpointing   estimated   measured   ratio")  # noqa: T201
    for hidden, layers, vocabulary, length, batch in sizes:
        with tempfile.TemporaryDirectory() as directory:
            make(Path(directory), hidden, layers, vocabulary, length)
            for checkpointing in (False, True):
                one = measure(Path(directory), length, batch, checkpointing)
                found.append(one)
                print(  # noqa: T201
                    f"{f'{hidden} x {layers}, {vocabulary:,}':<28} {length:>9,} {'on' if checkpointing else 'off':>15}"
                    f"{one['estimated'] / MIB:>8,.0f} MiB {one['measured'] / MIB:>6,.0f} MiB "
                    f"{one['estimated'] / one['measured']:>7.2f}",
                    flush=True,
                )
                stages = ", ".join(f"{name} {size / MIB:,.0f} MiB" for name, size in one["parts"].items())
                weights = f"weights, measured, {one['weights'] / MIB:,.0f} MiB"
                print(f"    {stages}; {weights}", flush=True)  # noqa: T201
    return found


def make(directory: Path, hidden: int, layers: int, vocabulary: int, length: int) -> None:
    """Write a Llama of random weights, and a dozen pairs whose answers fill `length` tokens and more."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipes.benchmark import make_rows, make_tokenizer

    make_tokenizer(directory, make_rows(directory / "texts.jsonl", 60))
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    rng = random.Random(0)
    words = [line for line in (directory / "texts.jsonl").read_text().split() if line.isalpha()]
    with (directory / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(12):
            texts = [" ".join(rng.choices(words, k=count)) for count in (length // 5, length, length)]
            prompt = [{"role": "user", "content": texts[0]}]
            file.write(json.dumps({"prompt": prompt, "chosen": texts[1], "rejected": texts[2]}) + "\n")


def measure(directory: Path, length: int, batch: int, checkpointing: bool) -> dict[str, Any]:
    """Return estimate and peak of two steps, in bytes, in a process of its own."""
    asked = [str(directory), "--length", str(length), "--batch", str(batch), *(["--checkpointing"] * checkpointing)]
    environment = {**os.environ, **_GIVE_BACK, "PREFTUNE_CACHE": str(directory / "caches"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "recipes.benchmark_memory", *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} must end with 0, got {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def train(directory: Path, length: int, batch: int, checkpointing: bool) -> dict[str, Any]:
    """Estimate, then train for two steps, the second of which has the optimizer's state; return both, in bytes."""
    from pydantic import TypeAdapter

    from preftune.benchmarking.memory import peak
    from preftune.benchmarking.workload import local_model
    from preftune.data.settings import DataSettings
    from preftune.models.memory import resident
    from preftune.models.settings import LowRankSettings
    from preftune.training.loss_settings import LossSettings
    from preftune.training.memory import plan_memory
    from preftune.training.methods import build_trainer
    from preftune.training.preparation import prepare
    from preftune.training.settings import TrainSettings

    model = local_model(directory)
    data = DataSettings(
        name="benchmark",
        source="files",
        path=str(directory / "pairs.jsonl"),
        dialect="messages",
        test_size=2,
        overlong="cut",
    )
    adapter = LowRankSettings.model_validate(
        {"name": "lora", "r": 16, "alpha": 32, "dropout": 0.0, "dtype": "float32", "modules_to_save": [], "path": None}
    )
    settings = TrainSettings.model_validate(
        {
            "name": "benchmark",
            "global_batch_size": batch,
            "per_device_train_batch_size": batch,
            "max_steps": 2,
            "learning_rate": 1e-4,
            "max_length": length,
            "bf16": False,
            "gradient_checkpointing": checkpointing,
        }
    )
    loss = TypeAdapter(LossSettings).validate_python({"name": "sigmoid", "beta": 0.1, "label_smoothing": 0.0})
    prepared = prepare(model, data, adapter, settings, loss, 0)
    weights = resident() - prepared.resident_before
    plan = plan_memory(prepared, settings, "shared", "off")
    trainer = build_trainer(prepared, plan.settle(settings), loss, "base", "shared", "off", 0, directory / "out")
    with peak() as memory:
        trainer.train()
    return {
        "estimated": plan.estimate.total,
        "measured": memory.highest,
        "weights": weights,
        "parts": plan.estimate.parts(),
    }


def main() -> None:
    """Do one training, for `measure`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--checkpointing", action="store_true")
    asked = parser.parse_args()
    print(json.dumps(train(asked.directory, asked.length, asked.batch, asked.checkpointing)))  # noqa: T201


if __name__ == "__main__":
    main()
