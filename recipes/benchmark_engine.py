"""Measure training against stock TRL: `python -m recipes.benchmark engine [overrides] [options]`.

Overrides are those of `recipes.run`. Without `model=` a Llama with random weights is made; without `data=` the pairs
at `--path` are taken, in the ShareGPT ranking layout. Each measurement is a process of its own, the two sides take
turns on the same rows, seed and steps, and medians are compared. Imports, loading, tokenising, the choice of the
engine and two micro-batches to warm up come before the clock on both sides; what ours takes to compute the reference,
or to check the one that it keeps, is in its time; that is of all pairs, so a shorter run is one on fewer
(`data.max_rows=100`) and not one of fewer steps. Memory is the process's at its highest while it trains, or the
device's on CUDA.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preftune import command_line, config
from preftune.runs import environment
from preftune.runs.exits import exits
from recipes import CHOICES
from recipes.benchmark_table import Runs, say, say_agreement, say_operations, say_runs, say_sweep

PAIRS = "../shared/data/dpo_en_demo_200.json"
PARTS = ("runs", "sweep", "operations", "agreement")
BETAS = (0.05, 0.1, 0.2, 0.3, 0.5)
# What stands where no override says otherwise: an adapter of rank 16 on pairs held 8 at a time, one of them held out.
DEFAULTS = {
    "model": ("model=local", "model.dtype=float32"),
    "data": ("data=sharegpt", "data.test_size=1"),
    "adapter": ("adapter.r=16", "adapter.alpha=16"),
    "train": ("train.global_batch_size=8", "train.per_device_train_batch_size=8"),
    "track": ("track=none",),
}
OF_SHAPE = {
    "llama_8m": {},
    "llama3_8b": {
        "model": ("model=local", "model.dtype=bfloat16", "model.quantization=nf4"),
        "adapter": ("adapter.r=32", "adapter.alpha=32"),
    },
}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.benchmark engine",
        usage="%(prog)s [GROUP=OPTION]... [key=value]... [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--path", default=PAIRS, help="pairs where no data= is given; default %(default)s")
    parser.add_argument("--shape", choices=OF_SHAPE, default="llama_8m", help="of the model that is made")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured")
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS, help="of the sweep, which is measured once")
    parser.add_argument("--pairs", type=int, nargs="+", default=[], help="how the gain changes with so many pairs")
    parser.add_argument("--lengths", type=int, nargs="+", default=[], help="and with train.max_length")
    parser.add_argument("--attention", nargs="+", default=[], choices=("flex", "blocks", "mask"), help="to compare")
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS, help="which parts to measure")
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--dry", action="store_true", help="print what would be measured, and measure nothing")
    overrides = [word for word in argv if "=" in word and not word.startswith("-")]
    asked = parser.parse_args([word for word in argv if word not in overrides])
    asked.overrides = overrides
    return asked


def main(argv: Sequence[str]) -> None:
    """Measure what was asked for and print it."""
    asked = arguments(argv)
    environment.settle()
    with tempfile.TemporaryDirectory() as scratch, exits():
        place = Path(scratch)
        values = composed(asked, place / "model")
        if asked.dry:
            say(json.dumps({name: values[name] for name in ("model", "data", "adapter", "train", "loss")}, indent=1))
            return say(f"{asked.rounds} rounds of {', '.join([*asked.only, *_more(asked)])}")
        if Path(values["model"]["path"] or "") == place / "model":
            _make(place / "model", asked)
        found = Benchmark(values, place, asked.rounds).everything(asked)
    if asked.json:
        Path(asked.json).write_text(json.dumps(found, indent=1))
    return None


def _more(asked: argparse.Namespace) -> list[str]:
    given = {"pairs": asked.pairs, "max_length": asked.lengths, "attention": asked.attention}
    return [f"{name} {', '.join(map(str, each))}" for name, each in given.items() if each]


def _make(directory: Path, asked: argparse.Namespace) -> None:
    """Write the model, in a process of its own, which frees the device again."""
    code = "import sys; from pathlib import Path; from preftune.benchmarking.workload import make_model; "
    code += "make_model(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))"
    subprocess.run([sys.executable, "-c", code, str(directory), asked.shape, asked.path], check=True)


def composed(asked: argparse.Namespace, made: Path) -> dict[str, Any]:
    """Return the values of the configuration: the overrides, and the defaults of what they do not choose."""
    given = list(asked.overrides)
    keys = [override.lstrip("+").partition("=")[0] for override in given]
    lines = []
    for group, defaults in {**DEFAULTS, **OF_SHAPE[asked.shape]}.items():
        if group not in keys:
            lines += [line for line in defaults if line.partition("=")[0] not in keys]
    if not any(key in ("model", "model.path") for key in keys):
        lines.append(f"model.path={made}")
        made.mkdir()
    if not any(key in ("data", "data.path") for key in keys):
        lines.append(f"data.path={asked.path}")
    checked = command_line.checked(lines + given, CHOICES, sweeps=False)
    with initialize_config_dir(str(CHOICES), version_base="1.3"):
        choices = compose("run", checked)
    config.load(choices)
    values: Any = OmegaConf.to_container(choices, resolve=True)
    return {name: values[name] for name in config.Config.model_fields}


class Benchmark:
    """Jobs of one configuration, one after the other."""

    def __init__(self, values: dict[str, Any], place: Path, rounds: int) -> None:
        """Measure `values`, in the scratch directory `place`."""
        self.values, self.place, self.rounds = values, place, rounds
        self.jobs = 0

    def everything(self, asked: argparse.Namespace) -> dict[str, Any]:
        """Measure each part, print it, and return the numbers."""
        found: dict[str, Any] = {"rate": self.job("rate", self.values)}
        say(f"{found['rate']['device']}, torch {found['rate']['torch']}; {found['rate']['rate'] / 1e9:,.0f} Gop/s")
        if "runs" in asked.only:
            found["runs"] = say_runs(self.runs(self.values))
        if "sweep" in asked.only:
            found["sweep"] = say_sweep(*self.sweep(asked.betas))
        if "operations" in asked.only:
            self.forget_reference()
            found["operations"] = say_operations(self.job("operations", self.values), found)
        if "agreement" in asked.only:
            found["agreement"] = say_agreement(self.job("agreement", self.values))
        for name, key, sizes in (
            ("pairs", "data.max_rows", asked.pairs),
            ("max_length", "train.max_length", asked.lengths),
        ):
            for size in sizes:
                say(f"\n{name} {size}")
                found[f"{name} {size}"] = say_runs(self.runs(changed(self.values, key, size)))
        for kind in asked.attention:
            say(f"\nattention {kind}")
            found[f"attention {kind}"] = say_runs(self.runs(self.values, kind))
        return found

    def runs(self, values: Mapping[str, Any], kind: str | None = None) -> Runs:
        """Measure TRL, ours with the reference to compute, and ours with it kept, in turn."""
        found: Runs = {"stock": [], "computed": [], "cached": []}
        own = changed(values, "model.attention", "flex_attention") if kind == "flex" else values
        kind = None if kind == "flex" else kind
        for _ in range(self.rounds):
            self.forget_reference()
            found["stock"].append(self.job("stock", values))
            found["computed"].append(self.job("ours", own, kind))
            found["cached"].append(self.job("ours", own, kind))
        return found

    def sweep(self, betas: Sequence[float]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Measure a run of each side for each beta, the reference kept from our first."""
        self.forget_reference()
        stock, ours = [], []
        for beta in betas:
            values = changed(self.values, "loss.beta", beta)
            stock.append(self.job("stock", values))
            ours.append(self.job("ours", values))
        return stock, ours

    def forget_reference(self) -> None:
        """Leave nothing kept of the reference."""
        shutil.rmtree(self.place / "caches" / "reference", ignore_errors=True)

    def job(self, task: str, values: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
        """Return what one measurement found."""
        self.jobs += 1
        path = self.place / f"job-{self.jobs}.json"
        path.write_text(json.dumps({"task": task, "config": values, "kind": kind}))
        environment = {**os.environ, "PREFTUNE_CACHE": str(self.place / "caches")}
        command = [sys.executable, "-m", "recipes.benchmark_side", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{task} must end with 0, got {done.returncode}:\n{done.stderr}")
        for line in done.stdout.splitlines():
            if line.startswith("engine: trl"):
                say(line)
        found: dict[str, Any] = json.loads(path.with_suffix(".found").read_text())
        return found


def changed(values: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """Return a copy of `values` with another value at `group.name`."""
    group, _, name = key.partition(".")
    copied = copy.deepcopy(dict(values))
    copied[group][name] = value
    return copied
