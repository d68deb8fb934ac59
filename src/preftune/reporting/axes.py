"""What tells the runs of a comparison apart: the settings that differ, and how a person reads them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from preftune.reporting.run_files import finite

SEED = "seed"
# Settings of where and how a run is made, which change nothing in it.
_APART = ("run", "sweep", "track", "launch", "dry_run")


def differing(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each configuration, its values of the settings that differ between them.

    A setting that some configurations do not have, as those of another loss, counts only where those that have it
    differ: the name of what they chose tells them apart already.

    Example:
        >>> differing([{"loss": {"beta": 0.1}, "seed": 0}, {"loss": {"beta": 0.5}, "seed": 0}])
        [{'loss.beta': 0.1}, {'loss.beta': 0.5}]
    """
    leaves = [dict(_leaves(config)) for config in configs]
    names = list(dict.fromkeys(name for one in leaves for name in one))
    axes = [name for name in names if len({written(one[name]) for one in leaves if name in one}) > 1]
    return [{name: one[name] for name in axes if name in one} for one in leaves]


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if not above and name in _APART:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def written(value: object) -> str:
    """Return a setting's value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def shown(value: object) -> str:
    """Return a setting's value as a person reads it: a long fraction to four digits."""
    text = written(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > 8 else text


def short_names(axes: Sequence[str]) -> dict[str, str]:
    """Return each setting's last part where that is its own alone, else all of it; of a choice, what is chosen."""
    typed = {axis: axis.removesuffix(".name") for axis in axes}
    last = [name.rpartition(".")[2] for name in typed.values()]
    return {
        axis: part if last.count(part) == 1 else name for (axis, name), part in zip(typed.items(), last, strict=True)
    }


def label(values: Mapping[str, Any], axes: Sequence[str]) -> str:
    """Return the values of a run as a person tells it apart: `beta=0.1 loss=ipo`."""
    names = short_names(axes)
    return " ".join(f"{names[axis]}={shown(values[axis])}" for axis in axes if axis in values)


def numeric(values: Iterable[object]) -> bool:
    """Return whether all values are numbers."""
    return all(finite(value) is not None for value in values)
