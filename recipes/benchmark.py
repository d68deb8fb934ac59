"""Measure preftune against stock TRL on this machine: `python -m recipes.benchmark data`, and `engine` for training.

Every measurement is a process of its own with empty caches; the two sides take turns, and medians are compared.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes import benchmark_memory

CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Run one benchmark, or one measurement of it."""
    if sys.argv[1:2] == ["engine"]:
        from recipes import benchmark_engine

        return benchmark_engine.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark", description=__doc__)
    parser.add_argument("what", choices=["data", "engine", "memory"], help="rows to ids, training, or its memory")
    parser.add_argument(
        "--path", help="JSON lines to measure the speed on, of prompt, chosen and rejected; without it, made ones"
    )
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the comparison of speed")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[100_000, 1_000_000], help="rows of the table of memory"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured")
    parser.add_argument("--measure", choices=["ours", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=CORES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.what == "memory":
        benchmark_memory.benchmark()
    elif asked.measure:
        measured = ours(asked.path) if asked.measure == "ours" else stock(asked.path, asked.processes)
        print(json.dumps(measured))  # noqa: T201
    else:
        benchmark_data(asked)
    return None


def benchmark_data(asked: argparse.Namespace) -> None:
    """Print rows per second of both sides, then time and memory by size."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        rows = place / "rows.jsonl"
        if asked.path:
            rows.symlink_to(Path(asked.path).resolve())
        else:
            make_rows(rows, asked.rows)
        with rows.open("rb") as lines:
            count = sum(1 for _ in lines)
        make_tokenizer(place / "tokenizer", rows)
        sides = {
            "preftune": ("ours", CORES),
            f"TRL, {CORES} processes": ("stock", CORES),
            "TRL, 1 process": ("stock", 1),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(asked.rounds):
            for name, (side, processes) in sides.items():
                caches = place / f"{side}-{processes}-{number}"
                seconds[name].append(measure(side, rows, caches, processes)["seconds"])
        fastest = statistics.median(seconds["preftune"])
        say(f"from {count:,} rows to ids on {CORES} cores, median of {asked.rounds}")
        for name, found in seconds.items():
            middle = statistics.median(found)
            say(f"  {name:<20} {count / middle:>8,.0f} rows/s   preftune is {middle / fastest:.2f} times as fast")
        if asked.sizes:
            say("\nsize        seconds   rows/s   peak memory   again, from the cache")
        for size in asked.sizes:
            rows = make_rows(place / f"{size}.jsonl", size)
            first, again = (measure("ours", rows, place / f"caches-{size}", CORES) for _ in range(2))
            say(
                f"{size:<10,} {first['seconds']:>8.1f} {size / first['seconds']:>8,.0f} "
                f"{first['peak'] / 2**30:>9.2f} GiB {again['seconds']:>8.1f} s"
            )


def measure(side: str, rows: Path, caches: Path, processes: int) -> dict[str, float]:
    """Return the seconds of one side, and the largest memory of its processes together, in bytes."""
    environment = {
        **os.environ,
        "PREFTUNE_CACHE": str(caches),
        "HF_HOME": str(caches / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "recipes.benchmark", "data", "--measure", side, "--processes", str(processes)]
    peak = 0
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as warned:
        child = subprocess.Popen([*command, "--path", str(rows)], env=environment, stdout=said, stderr=warned)
        while child.poll() is None:
            peak = max(peak, memory(child.pid))
            time.sleep(0.2)
        said.seek(0)
        warned.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(command)} must end with 0, got {child.returncode}:\n{warned.read()}")
        return {"peak": peak, **json.loads(said.read().splitlines()[-1])}


def memory(process: int) -> int:
    """Return the memory of a process and all that it started, in bytes: what they share counts once."""
    total = 0
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            total += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
    except (OSError, ProcessLookupError):
        return 0  # it has ended
    return total + sum(memory(int(child)) for child in children)


def ours(path: str) -> dict[str, float]:
    """Prepare the rows as a run does."""
    from preftune.benchmarking.workload import local_model
    from preftune.data.loading import load_pairs
    from preftune.data.settings import DataSettings
    from preftune.models.source import locate
    from preftune.models.tokenizer import load_tokenizer
    from preftune.tokens.encoding import control_tokens
    from preftune.tokens.tokenization import tokenize_splits
    from preftune.training import preparation  # noqa: F401  what a run has imported before it reads a row

    model = local_model(Path(path).parent / "tokenizer")
    data = DataSettings(
        name="benchmark",
        source="files",
        path=path,
        dialect="messages",
        test_size=0.01,
        max_dropped=None,
        on_bad_row="drop",
    )
    started = time.perf_counter()
    chat = load_tokenizer(model, locate(model))
    rows, held_out = tokenize_splits(load_pairs(data, control_tokens(chat)), chat, 1024, "drop")
    return {"seconds": time.perf_counter() - started, "rows": len(rows.rows) + len(held_out.rows)}


def stock(path: str, processes: int) -> dict[str, float]:
    """Prepare the rows as TRL's trainer does before it trains."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    arguments = DPOConfig(max_length=1024, dataset_num_proc=processes, use_cpu=True, report_to="none")
    trainer = DPOTrainer.__new__(DPOTrainer)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(Path(path).parent / "tokenizer")
    rows = load_dataset("json", data_files=path, split="train")
    prepared = trainer._prepare_dataset(rows, tokenizer, arguments, "train")
    return {"seconds": time.perf_counter() - started, "rows": len(prepared)}


def make_rows(path: Path, count: int) -> Path:
    """Write `count` pairs of about 1 KB: words by Zipf's law, a third of them in the prompt."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwygpb", k=rng.randint(2, 9))) for _ in range(20_000)]
    drawn = rng.choices(words, [1 / rank for rank in range(1, len(words) + 1)], k=1_000_000)

    def text(length: int) -> str:
        start = rng.randrange(len(drawn) - length)
        return " ".join(drawn[start : start + length]).capitalize() + "."

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            prompt = [{"role": "user", "content": text(rng.randint(20, 100))}]
            answers = {
                name: [{"role": "assistant", "content": text(rng.randint(20, 100))}] for name in ("chosen", "rejected")
            }
            file.write(json.dumps({"prompt": prompt, **answers}) + "\n")
    return path


def make_tokenizer(directory: Path, rows: Path) -> None:
    """Train a byte-level BPE tokenizer of 32,000 entries on the first rows, with a Llama-3 template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    with rows.open(encoding="utf-8") as lines:
        text = [line for line, _ in zip(lines, range(2_000), strict=False)]
    bpe.train_from_iterator(text, trainers.BpeTrainer(vocab_size=32_000, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=special[0], eos_token=special[3])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}"
    )
    tokenizer.save_pretrained(directory)
    LlamaConfig().save_pretrained(directory)


def say(line: str) -> None:
    """Print a line of the result at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
