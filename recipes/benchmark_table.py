"""What `recipes.benchmark engine` prints: medians, their spread over the rounds, and ratios of the two sides."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
Runs = dict[str, list[dict[str, Any]]]

_SIDES = {"stock": "TRL", "computed": "preftune, reference to compute", "cached": "preftune, reference kept"}


def say(line: str) -> None:
    """Print a line of the result at once."""
    print(line, flush=True)  # noqa: T201


def say_runs(runs: Runs) -> dict[str, Any]:
    """Print the sides of a run, and return medians and ratios with all that was measured."""
    stock = runs["stock"]
    slowest = statistics.median(run["seconds"] for run in stock)
    first = stock[0]
    say(
        f"{first['pairs']} pairs of {first['trained']}, {first['tokens'] / first['pairs']:,.0f} tokens each; "
        f"of what TRL computes {first['padding']:.1%} is padding and {first['repeated']:.1%} a prompt again; "
        f"median of {len(stock)} rounds (smallest to largest)"
    )
    say(f"{'':<32} {'seconds':>23} {'pairs/s':>8} {'tokens/s':>9} {'peak MiB':>9} {'growth':>7}  times TRL")
    found: dict[str, Any] = {"measured": runs}
    for name, side in runs.items():
        seconds = [run["seconds"] for run in side]
        middle = statistics.median(seconds)
        ratios = [theirs["seconds"] / run["seconds"] for theirs, run in zip(stock, side, strict=True)]
        peak, growth = (statistics.median(run[key] for run in side) for key in ("peak", "growth"))
        found[name] = {
            "seconds": middle,
            "pairs_per_second": side[0]["pairs"] / middle,
            "tokens_per_second": side[0]["tokens"] / middle,
            "peak": peak,
            "growth": growth,
            "ratio": slowest / middle,
            "smallest_ratio": min(ratios),
            "largest_ratio": max(ratios),
            "loss_difference": loss_difference(first, side[0]),
        }
        engine = f"  ({side[0]['engine']})" if "engine" in side[0] else ""
        say(
            f"{_SIDES[name]:<32} {middle:>8.2f} ({_spread(seconds)}) {side[0]['pairs'] / middle:>8.2f} "
            f"{side[0]['tokens'] / middle:>9,.0f} {peak / 2**20:>9,.0f} {growth / 2**20:>7,.0f}  "
            f"{slowest / middle:.2f} ({_spread(ratios)}){engine}"
        )
    steps = min(20, len(first["losses"]))
    say(f"largest difference of the losses of {steps} steps: {found['computed']['loss_difference']:.1e}")
    return found


def say_sweep(stock: Sequence[Run], ours: Sequence[Run]) -> dict[str, float]:
    """Print what a sweep takes on both sides."""
    theirs, mine = (sum(run["seconds"] for run in side) for side in (stock, ours))
    say(f"\n{len(stock)} values of beta: TRL {theirs:.1f} s, preftune {mine:.1f} s: {theirs / mine:.2f} times as fast")
    return {"stock": theirs, "ours": mine, "ratio": theirs / mine}


def say_operations(found: Mapping[str, Mapping[str, int]], so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Print both sides' operations, as torch counts them and with attention on CPU, and the rate of the timed runs."""
    say("\noperations, in G              by torch  of TRL's  of the floor   with attention  of TRL's  of the floor")
    shares: dict[str, Any] = {}
    for name in ("stock", "computed", "cached"):
        fewest = found["floor_cached" if name == "cached" else "floor_computed"]
        shares[name] = {
            key: {"operations": count, "of_stock": count / found["stock"][key], "of_floor": count / fewest[key]}
            for key, count in found[name].items()
        }
        columns = "     ".join(
            f"{each['operations'] / 1e9:>12,.1f} {each['of_stock']:>8.3f} {each['of_floor']:>8.2f}"
            for each in shares[name].values()
        )
        say(f"{_SIDES[name]:<30}{columns}")
        if "runs" in so_far:
            share = found[name]["total"] / so_far["runs"][name]["seconds"] / so_far["rate"]["rate"]
            shares[name]["of_rate"] = share
            say(f"{'':<30}{share:.1%} of the device's rate of matrix products")
    return {**shares, "counted": found}


def say_agreement(found: Mapping[str, float]) -> dict[str, float]:
    """Print how far the sides are apart."""
    say(
        f"\nfirst batch: log-probabilities of completions differ by at most {found['logps']:.1e} nats, "
        f"gradients by {found['gradients']:.1e} of their norm"
    )
    if "float64_logps" in found:
        say(
            f"in float64, against the model's own logits: log-probabilities by {found['float64_logps']:.1e}, "
            f"gradients by {found['float64_gradients']:.1e}, relative"
        )
    return dict(found)


def loss_difference(stock: Run, ours: Run, steps: int = 20) -> float:
    """Return the largest difference of the losses of the first steps."""
    pairs = list(zip(stock["losses"], ours["losses"], strict=True))[:steps]
    return float(max(abs(theirs - mine) for theirs, mine in pairs))


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
