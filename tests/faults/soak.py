"""Runs of the toy under random faults and restarts: `make soak` ends with what became of each fault.

1. Every case is run undisturbed once: what it leaves is what every other run of it must leave.
2. Then runs are started, in a directory and with a cache of their own, by the recipe itself in a process of its own.
3. A fault ends, or meets, each start but the last, at a random instant. Afterwards files of a checkpoint or of the
   kept reference may be damaged. The same run is started again until it is complete.
4. A fault is survived where the run ends in the same weights, events and answers; refused where the start that met
   it ends with a sentence and exit code 1 or 2, and the run still comes to them; lost otherwise.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.logged import events

ROOT = Path(__file__).resolve().parent.parent.parent
STARTS = 12  # of one run, after which it counts as lost
PATIENCE = 600.0  # s that a start may take

SHORT = (
    "data.toy.pairs=64",
    "data.test_size=16",
    "train=smoke",
    "train.max_steps=12",
    "train.save_steps=3",
    "evaluate.points=3",
    "evaluate.prompts=4",
    "evaluate.max_new_tokens=16",
    "track=none",
)
CASES: dict[str, tuple[str, ...]] = {
    "lora": (),
    "stock engine": ("engine=trl",),
    "full": ("adapter=full", "train.learning_rate=1e-4"),
    "nf4": ("model.quantization=nf4", "model.dtype=bfloat16"),
    "dropout": ("adapter.dropout=0.1", "train.disable_dropout=false"),
    "running mean": ("loss=beta_dpo",),
    "kto": ("method=kto", "loss=kto"),
}

Damage = Callable[[Path, random.Random], None]


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size + 1))


def _empty(file: Path, chance: random.Random) -> None:
    os.truncate(file, 0)


def _delete(file: Path, chance: random.Random) -> None:
    file.unlink()


DAMAGES: dict[str, Damage] = {"a bit flipped": _flip, "cut": _cut, "emptied": _empty, "deleted": _delete}
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1, "Ctrl-C": signal.SIGINT}
FAULTS = (*SIGNALS, "file-size limit", *(f"{where} {how}" for where in ("checkpoint", "reference") for how in DAMAGES))


def soak(minutes: float, seed: int, scratch: Path) -> dict[str, Counter[str]]:
    """Run for `minutes`; return for each fault how often it was tried, survived, refused and lost."""
    chance, counts = random.Random(seed), {fault: Counter[str]() for fault in FAULTS}
    expected = {name: _undisturbed(name, scratch / "undisturbed" / name.replace(" ", "-")) for name in CASES}
    until, number = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        number += 1
        name = chance.choice(list(CASES))
        directory = scratch / f"{number}-{name.replace(' ', '-')}"
        met = _disturbed(directory, CASES[name], expected[name][1], chance)
        is_same = left_by(directory / "run") == expected[name][0]
        for fault, ending in met:
            counts[fault].update(["tried", ending if is_same else "lost"])
        line = ", ".join(f"{fault}{' (refused)' if ending == 'refused' else ''}" for fault, ending in met)
        sys.stdout.write(f"{number}  {name}  {'the same' if is_same else f'LOST, see {directory}'}  after {line}\n")
        sys.stdout.flush()
        if is_same:
            shutil.rmtree(directory)
    return counts


def left_by(run: Path) -> dict[str, Any] | None:
    """Return what a complete run has left, but for what is measured of the machine; None where it is not complete."""
    try:
        if json.loads((run / "status.json").read_bytes())["state"] != "complete":
            return None
        (weights,) = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
        summary = json.loads((run / "summary.json").read_bytes())
        return {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "events": repr(events(run)),
            "answers": (run / "samples.jsonl").read_bytes(),
            "eval": repr(summary["eval"]),
        }
    except (OSError, ValueError, KeyError):
        return None


def _undisturbed(name: str, directory: Path) -> tuple[dict[str, Any], float]:
    """Return what a case leaves, and the seconds it takes."""
    since = time.monotonic()
    code = _end(_start(directory, CASES[name]))
    left = left_by(directory / "run")
    if code or left is None:
        raise SystemExit(f"{name} must end well undisturbed, got exit code {code}; see {directory}/output.log")
    return left, time.monotonic() - since


def _disturbed(
    directory: Path, overrides: tuple[str, ...], seconds: float, chance: random.Random
) -> list[tuple[str, str]]:
    """Start a run under faults until it ends well; return each fault with `survived` or `refused`."""
    met: list[tuple[str, str]] = []
    for left in reversed(range(STARTS)):
        # the last starts are undisturbed, and so is one of four before them
        fault = chance.choice(FAULTS) if left > 3 and chance.random() < 0.75 else None
        limit = int(2 ** chance.uniform(8, 22)) if fault == "file-size limit" else None
        process = _start(directory, overrides, limit)
        if fault is not None and limit is None:
            process.join(chance.uniform(0, 1.1 * seconds))
            if process.is_alive():
                os.kill(process.pid or 0, SIGNALS.get(fault, signal.SIGKILL))
        code = _end(process)
        where, _, how = (fault or "").partition(" ")
        if how in DAMAGES:
            _damage(directory / ("run/checkpoints" if where == "checkpoint" else "cache/reference"), how, chance)
        if fault is not None:
            met.append((fault, "refused" if code in (1, 2) else "survived"))
        elif code == 0:
            break
        else:
            met.append((met[-1][0] if met else "kill -9", "refused"))  # by what the fault before has left
    return met


def _damage(below: Path, how: str, chance: random.Random) -> None:
    files = sorted(path for path in below.rglob("*") if path.is_file() and path.suffix != ".lock")
    if files:
        DAMAGES[how](chance.choice(files), chance)


def _start(directory: Path, overrides: tuple[str, ...], limit: int | None = None) -> multiprocessing.Process:
    directory.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(str(directory), [*SHORT, *overrides], limit))
    process.start()
    return process  # type: ignore[return-value]


def _end(process: multiprocessing.Process) -> int:
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return 1
    return process.exitcode or 0


def _run(directory: str, overrides: list[str], limit: int | None) -> None:
    """Do one start; what it prints is added to output.log."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from preftune.runs.exits import exits
    from recipes import run

    with Path(directory, "output.log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(directory)
    os.environ["PREFTUNE_CACHE"] = f"{directory}/cache"
    if not Path("cache/toy").exists():  # the toy's model is the same for all, and takes longest to make
        Path("cache").mkdir(exist_ok=True)
        Path("cache/toy").symlink_to(os.environ["PREFTUNE_TOY"])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        resolved = OmegaConf.to_container(compose("run", [*overrides, "run.dir=run"]), resolve=True)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with exits():
        run.run(yaml.safe_load(yaml.safe_dump(resolved)))


def main() -> None:
    """Soak, and print the table; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell ran us with &, it is ignored
    multiprocessing.set_forkserver_preload(["preftune.runs.warm"])
    from preftune.caches import cache_directory

    os.environ["PREFTUNE_TOY"] = str(cache_directory("toy").resolve())
    scratch = Path(tempfile.mkdtemp(prefix="soak-"))
    counts = soak(asked.minutes, asked.seed, scratch)
    words = ("tried", "survived", "refused", "lost")
    sys.stdout.write(f"\n{'':<28}" + "".join(f"{word:>10}" for word in words) + "\n")
    total: Counter[str] = sum(counts.values(), Counter())
    for fault, count in [*counts.items(), ("all", total)]:
        sys.stdout.write(f"{fault:<28}" + "".join(f"{count[word]:>10}" for word in words) + "\n")
    if total["lost"]:
        raise SystemExit(f"{total['lost']} lost; what is left of them is in {scratch}")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
