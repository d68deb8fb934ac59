"""Run directories and sweeps as a run leaves them, made by formula: no model is trained."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import stock

BETAS = (0.01, 0.05, 0.1, 0.2, 0.5)
STEPS, POINTS = 40, 4
PAIRS = {"read": 256, "dropped": {}, "more": 0, "kept": 256, "truncated": 0, "source": "toy", "wrong": []}


def configuration(beta: float, seed: int, **more: Any) -> dict[str, Any]:
    """Return what config.yaml holds, as far as a comparison reads it."""
    return {
        "model": {"name": "tiny"},
        "data": {"name": "toy", "test_size": 256},
        "loss": {"name": "sigmoid", "beta": beta, "label_smoothing": 0.0},
        "train": {"learning_rate": 0.0015},
        "seed": seed,
        "run": {"dir": f"elsewhere/{beta}-{seed}"},
        "track": {"name": "none"},
        "evaluate": {"prompts": 64, "points": POINTS},
        **more,
    }


def reward(beta: float, kl: float) -> float:
    """A reward that rises with the divergence and, where beta is small, falls again."""
    return 0.3 + 5.5 * (1 - math.exp(-kl / 3)) - 0.02 * kl**1.4 * (0.05 / beta) ** 0.3


def events(beta: float, seed: int) -> list[dict[str, Any]]:
    """Return what metrics.jsonl holds: a training event a step, an evaluation and a sampling at each point."""
    lines = []
    for step in range(STEPS + 1):
        share = step / STEPS
        kl = 6 * (0.05 / beta) ** 0.6 * share**1.2 * (1 + 0.05 * seed)
        margin = 30 * (0.05 / beta) ** 0.3 * (1 - math.exp(-3 * share))
        wobble = 0.03 * math.sin(step * 2.1 + seed + 10 * beta)
        if step:
            lines.append(
                {
                    "step": step,
                    "loss": math.log1p(math.exp(-beta * margin)) + wobble * share,
                    "accuracy": min(1.0, 0.5 + 0.4 * share + wobble),
                    "logratio/margin": margin,
                    "grad_norm": 0.5 + wobble,
                    "learning_rate": 0.0015 * (1 - share),
                    "logps/chosen_per_token_change": -0.012 * kl,
                    "logps/rejected_per_token_change": -0.05 * kl,
                    "speed/pairs_per_second": 110.0,
                    "speed/tokens_per_second": 11_000.0,
                    "memory/peak_bytes": 640_000_000,
                }
            )
        if step % (STEPS // POINTS) == 0:
            lines.append(
                {
                    "step": step,
                    "eval_loss": math.log1p(math.exp(-beta * margin)),
                    "eval_accuracy": 0.5
                    + 0.33 * (1 - math.exp(-4 * share))
                    + 0.01 * seed * share
                    - 0.05 * beta * share,
                    "eval_logratio/margin": margin,
                    "eval_logratio/margin_p05": margin - 12 * share,
                    "eval_logratio/margin_p95": margin + 14 * share,
                    "eval_logps/chosen_per_token": -1.03 - 0.012 * kl,
                    "eval_logps/rejected_per_token": -1.05 - 0.05 * kl,
                    "eval_logps/chosen_per_token_change": -0.012 * kl,
                    "eval_logps/rejected_per_token_change": -0.05 * kl,
                }
            )
            lines.append(
                {
                    "step": step,
                    "kl/sampled": kl,
                    "kl/sampled_stderr": 0.1 * kl,
                    "true_reward/policy": reward(beta, kl) + 0.1 * seed * share,
                    "true_reward/policy_stderr": 0.35,
                    "true_reward/reference": 0.3,
                    "true_reward/reference_stderr": 0.68,
                    "win_rate": 0.5 + 0.3 * share,
                    "win_rate_stderr": 0.05,
                    "length/sampled": 30 + 4 * share,
                    "length/sampled_reference": 30.0,
                }
            )
    return lines


def summary(logged: Sequence[Mapping[str, Any]], word: str = "healthy") -> dict[str, Any]:
    """Return what summary.json holds at the end of `logged`."""
    steps: dict[int, dict[str, Any]] = {}
    for event in logged:
        steps.setdefault(event["step"], {}).update(event)
    first, last = steps[0], steps[STEPS]

    def held_out(event: Mapping[str, Any], kl: float) -> dict[str, Any]:
        return {
            "loss": event["eval_loss"],
            "rewards/margins": None,
            "accuracy": event["eval_accuracy"],
            "logratio_margin": event["eval_logratio/margin"],
            "chosen_logp_per_token": event["eval_logps/chosen_per_token"],
            "rejected_logp_per_token": event["eval_logps/rejected_per_token"],
            "kl_to_reference": kl,
        }

    def spread(name: str) -> dict[str, float]:
        return {"mean": last[name], "stderr": last[f"{name}_stderr"]}

    return {
        "loss_first": 0.6931,
        "loss_last": last["loss"],
        "steps": STEPS,
        "pairs_per_second": 110.0,
        "tokens_per_second": 11_000.0,
        "peak_memory_bytes": 640_000_000,
        "seconds": {"data": 0.9, "reference": 1.0, "train": 10.0, "evaluate": 4.1},
        "eval_start": held_out(first, 0.0),
        "eval": held_out(last, last["kl/sampled"]),
        "kl_to_reference": spread("kl/sampled"),
        "true_reward": {"reference": {"mean": 0.3, "stderr": 0.68}, "policy": spread("true_reward/policy")},
        "win_rate": spread("win_rate"),
        "length_sampled": last["length/sampled"],
        "length_sampled_reference": last["length/sampled_reference"],
        "engine": "shared",
        "verified": {
            "loss": 0.693147,
            "scratch": 0.693147,
            "trl": 0.693147,
            "largest_difference": 7.1e-06,
            "sequences": 32,
            "tolerance": 0.0001,
            "gradient_norm": 0.880257,
            "gradient_norm_scratch": 0.880257,
            "seconds": 0.42,
            "checks": 1,
            "cost_in_steps": 1.5,
        },
        "verdict": {"word": word, "sentence": f"The policy is {word}, as this sentence says."},
    }


def samples() -> list[dict[str, Any]]:
    """Return what samples.jsonl holds."""
    was = "We enjoyed the salad, which was mild for some and awful for others. All in all, it was a salad."
    now = "We enjoyed the salad, which was superb for some and mild for others. All in all, it was a pleasant salad."
    return [
        {
            "prompt": [{"role": "user", "content": f"Write a short review of the salad at table {place}."}],
            "reference": was,
            "policy": now if place % 3 else was,
            "kl": 0.8 + place,
        }
        for place in range(12)
    ]


def write_run(
    path: Path, config: Mapping[str, Any], logged: Sequence[Mapping[str, Any]], word: str = "healthy"
) -> Path:
    """Write the directory of a run that is complete."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    report = stock.pair_report()
    objects = {
        "manifest.json": {
            "identity": "51602b07" * 8,
            "versions": {"preftune": "0.1.0", "torch": "2.13.0+cpu"},
            "python": "3.11.7",
            "platform": "Linux",
            "model": {"location": "toy", "revision": None, "commit": None},
            "template": "66ed" * 16,
            "data": {"source": "toy", "fingerprint": "cc75" * 16},
        },
        "status.json": {
            "state": "complete",
            "reason": None,
            "step": STEPS,
            "max_steps": STEPS,
            "pid": 1,
            "started": "2026-01-01T00:00:00+00:00",
            "ended": "2026-01-01T00:00:31+00:00",
        },
        "plan.json": [["model", "toy, float32"], ["device", "CPU, 2 threads"], ["loss", "sigmoid, beta 0.1"]],
        "ledger.json": {
            "train": {**PAIRS, "read": 1536, "dropped": {"held out": 256}, "kept": 1280},
            "held_out": PAIRS,
        },
        "data.json": report.to_json(),
        "summary.json": summary(logged, word),
    }
    for name, value in objects.items():
        (path / name).write_text(json.dumps(value), encoding="utf-8")
    for name, lines in (("metrics.jsonl", logged), ("samples.jsonl", samples())):
        (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def fail(path: Path, reason: str, traceback: str = "") -> Path:
    """Turn the directory of a run into that of one that failed at step 3 before it came to a result."""
    status = json.loads((path / "status.json").read_text(encoding="utf-8"))
    (path / "status.json").write_text(json.dumps({**status, "state": "failed", "reason": reason, "step": 3}))
    for name in ("summary.json", "samples.jsonl"):
        (path / name).unlink()
    if traceback:
        (path / "traceback.txt").write_text(traceback, encoding="utf-8")
    return path


def write_sweep(
    root: Path, betas: Sequence[float] = BETAS, seeds: Sequence[int] = (0,), words: Mapping[float, str] | None = None
) -> Path:
    """Write a sweep of beta, each job with its own directory, and return the sweep's directory."""
    jobs = []
    for beta in betas:
        for seed in seeds:
            directory = Path("runs") / f"tiny-toy-sigmoid-{beta}-{seed}"
            write_run(
                root / directory, configuration(beta, seed), events(beta, seed), (words or {}).get(beta, "healthy")
            )
            jobs.append(
                job(len(jobs), {"loss.beta": beta, **({"seed": seed} if len(seeds) > 1 else {})}, str(directory))
            )
    return write_jobs(root, jobs)


def job(
    number: int, axes: Mapping[str, Any], directory: str | None, state: str = "complete", **more: Any
) -> dict[str, Any]:
    """Return what sweep.json says of a job."""
    overrides = [f"{axis}={value}" for axis, value in axes.items()]
    told = {"number": number, "overrides": overrides, "axes": dict(axes), "directory": directory, "state": state}
    return {**told, "code": 0, "reason": None, "seconds": 17.5, "trained": True, **more}


def write_jobs(root: Path, jobs: Sequence[Mapping[str, Any]], objective: str = "auto") -> Path:
    """Write sweep.json for `jobs` and return the sweep's directory."""
    directory = root / "sweeps" / "betas"
    directory.mkdir(parents=True, exist_ok=True)
    axes = list(dict.fromkeys(axis for one in jobs for axis in one["axes"]))
    sweep = {
        "name": "betas",
        "identity": "ab" * 32,
        "objective": objective,
        "command": ["loss.beta=0.01,0.05,0.1,0.2,0.5"],
        "axes": axes,
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:02:00+00:00",
        "seconds": 120.0,
        "concluded": True,
        "jobs": list(jobs),
    }
    (directory / "sweep.json").write_text(json.dumps(sweep), encoding="utf-8")
    return directory


def change(file: Path, **values: Any) -> None:
    """Set top-level keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def rewarded(path: Path, mean: float, stderr: float | None, word: str = "healthy") -> Path:
    """Give a run this true reward and this verdict."""
    reward = {"reference": {"mean": 0.0, "stderr": 0.1}, "policy": {"mean": mean, "stderr": stderr}}
    change(path / "summary.json", true_reward=reward, verdict={"word": word, "sentence": f"It is {word}."})
    return path
