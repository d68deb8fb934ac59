"""The same pairs are kept and held out whatever the order of the rows and however many processes read them."""

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.data import workers as workers_module
from preftune.data.ledger import SplitLedger
from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.selection import select
from preftune.data.settings import DataSettings
from preftune.pairs import PreferencePair
from tests import stock

CHOICES = (
    {"top_k": 150, "ties": "drop", "conflicts": "merge", "max_rows": 100},
    {"top_k": 300, "duplicates": "keep", "extras": {"weight": "weight"}},
    {"conflicts": "drop", "duplicates": "exact", "max_length_ratio": 1.5, "min_margin": 0.5},
    {"conflicts": "merge", "duplicates": "normalized", "extras": {"probability": "chance"}, "max_rows": 333},
)


def rows(seed: int) -> list[dict[str, object]]:
    """Make 640 rows: few scores, so that they tie; and of a quarter of them copies, variants or mirrors."""
    draw = random.Random(seed)
    made = []
    for number in range(480):
        made.append(
            {
                "prompt": f"{draw.choice(['What', 'Why'])} is {number % 300}?",
                "chosen": f"good {number} " + "a " * 1000,
                "rejected": f"bad {number} " + "b " * draw.choice([600, 1000]),
                "gap": draw.choice([0, 0, 0.5, 1, 2]),
                "chance": draw.choice([0.1, 0.2, 0.3, 0.7, 0.9]),
                "weight": draw.choice([1, 2]),
            }
        )
    for row in draw.choices(made, k=160):
        change = draw.choice(["copy", "case", "turn"])
        other = {**row, "gap": draw.choice([0, 1]), "weight": draw.choice([1, 2]), "chance": draw.choice([0.4, 0.6])}
        if change == "case":
            other["prompt"] = f"  {str(row['prompt']).upper()}"
        elif change == "turn":
            other["chosen"], other["rejected"] = row["rejected"], row["chosen"]
        made.append(other)
    return made


def outcome(prepared: PreparedPairs) -> object:
    sides = [
        sorted(json.dumps([one.prompt, one.chosen, one.rejected, sorted(one.extras.items())]) for one in side)
        for side in (prepared.train, prepared.held_out)
    ]
    account = prepared.ledger.to_json()["train"]
    return sides, account["read"], account["dropped"], account["kept"], account["conflicting"]


def load(directory: Path, made: list[dict[str, object]], processes: int, **choices: object) -> tuple[object, set[int]]:
    """Load `made` from a file of many chunks with so many processes; return what came out and who read it."""
    file = directory / f"rows{processes}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert file.stat().st_size > 6 * 2**18
    fields = {"name": "x", "source": "files", "path": str(file), "dialect": "messages", "score": "gap"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers_module.os, "sched_getaffinity", lambda process: set(range(processes)))
        patch.setenv("PREFTUNE_CACHE", str(directory / "cache"))
        started: set[int] = set()
        start = workers_module.ProcessPoolExecutor

        def pool(count: int, *arguments: object, **named: object) -> object:
            started.add(count)
            return start(count, *arguments, **named)  # type: ignore[arg-type]

        patch.setattr(workers_module, "ProcessPoolExecutor", pool)
        found = load_pairs(DataSettings.model_validate({**fields, "test_size": 0.1, "split_seed": 5, **choices}))
        return outcome(found), started


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), choices=st.sampled_from(CHOICES))
def test_selection_does_not_depend_on_the_order_of_rows_or_the_number_of_workers(seed, choices):
    made = rows(seed)
    shuffled = random.Random(seed + 1).sample(made, len(made))
    with tempfile.TemporaryDirectory() as directory:
        one, alone = load(Path(directory), made, 1, **choices)
        two, several = load(Path(directory), shuffled, 2, **choices)
    assert (alone, several) == (set(), {2})
    assert one == two


@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_weights_of_a_mix_keep_the_same_pairs_in_any_order(seed):
    made = rows(seed)
    found = []
    for processes, order in ((1, made), (2, random.Random(seed).sample(made, len(made)))):
        with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers_module.os, "sched_getaffinity", lambda process, n=processes: set(range(n)))
            patch.setenv("PREFTUNE_CACHE", os.path.join(directory, "cache"))
            mix = []
            for name, weight in (("What", 3), ("Why", 1)):
                file = Path(directory, f"{name}.jsonl")
                ours = [row for row in order if str(row["prompt"]).strip().lower().startswith(name.lower())]
                file.write_text("".join(json.dumps(row) + "\n" for row in ours))
                mix.append({"path": str(file), "weight": weight, "score": "gap"})
            fields = {"name": "x", "source": "mix", "mix": mix, "test_size": 7, "top_k": 400, "max_rows": 200}
            found.append(outcome(load_pairs(DataSettings.model_validate(fields))))
    assert found[0] == found[1]


def test_of_copies_at_a_cut_the_same_are_kept_in_any_order():
    copies = [PreferencePair(({"role": "user", "content": "?"},), "a", "b", "x:1", {"weight": w}) for w in (1.0, 2.0)]
    fields = {"name": "x", "source": "files", "path": "x.jsonl", "dialect": "messages", "test_size": 1}
    chosen = DataSettings.model_validate({**fields, "duplicates": "keep", "max_rows": 3})
    kept = []
    for order in (copies * 2, copies[::-1] * 2):
        pairs = select(stock.table(order), chosen, SplitLedger("x", read=4))
        kept.append(sorted(pair.extras["weight"] for pair in pairs))
    assert kept[0] == kept[1]
