"""What a run left behind, read from its directory as it is found: a file that is missing or torn is empty."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run, each empty where it is missing or cannot be read.

    Attributes:
        path: The run's directory.
        config: config.yaml.
        manifest: manifest.json.
        status: status.json.
        summary: summary.json.
        ledger: ledger.json.
        plan: plan.json, the lines of the plan as name and value.
        events: metrics.jsonl, one map per log event, in their order.
        samples: samples.jsonl, one map per held-out prompt.
        traceback: traceback.txt.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    status: Mapping[str, Any]
    summary: Mapping[str, Any]
    ledger: Mapping[str, Any]
    plan: Sequence[tuple[str, str]]
    events: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    traceback: str

    def by_step(self) -> dict[int, dict[str, Any]]:
        """Return what was logged at each step, all events of a step together, in the order of the steps."""
        steps: dict[int, dict[str, Any]] = {}
        for event in self.events:
            step = event.get("step")
            if isinstance(step, int):
                steps.setdefault(step, {}).update(event)
        return dict(sorted(steps.items()))

    def seconds(self) -> float | None:
        """Return the seconds that the run measured, all stages together; from start to end where it wrote none."""
        stages = [spent for spent in map(finite, mapping(self.summary.get("seconds")).values()) if spent is not None]
        if stages:
            return sum(stages)
        try:
            started, ended = (datetime.fromisoformat(self.status[name]) for name in ("started", "ended"))
            return (ended - started).total_seconds()
        except (KeyError, TypeError, ValueError):
            return None

    def device(self) -> str:
        """Return `CPU`, `GPU`, or nothing where the plan does not say."""
        device = next((value for name, value in self.plan if name == "device"), "")
        return ("CPU" if device.startswith("CPU") else "GPU") if device else ""


def read_run_files(path: Path) -> RunFiles:
    """Read the directory of a run; nothing in it can make this fail."""
    return RunFiles(
        path=path,
        config=mapping(_yaml(path / "config.yaml")),
        manifest=mapping(_parsed(path / "manifest.json")),
        status=mapping(_parsed(path / "status.json")),
        summary=mapping(_parsed(path / "summary.json")),
        ledger=mapping(_parsed(path / "ledger.json")),
        plan=_plan(_parsed(path / "plan.json")),
        events=_lines(path / "metrics.jsonl"),
        samples=_lines(path / "samples.jsonl"),
        traceback=_text(path / "traceback.txt"),
    )


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` where it is a map with names for keys, else an empty one."""
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else {}


def finite(value: object) -> float | None:
    """Return `value` where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def number_at(values: Mapping[str, Any], *names: str) -> float | None:
    """Return the finite number below `names`, one map in another; None where there is none."""
    found: object = values
    for name in names:
        found = mapping(found).get(name)
    return finite(found)


def text_at(values: Mapping[str, Any], name: str) -> str:
    """Return the text of that name, a number as text, and nothing for what is missing."""
    value = values.get(name)
    return "" if value is None or isinstance(value, dict | list) else str(value)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _parsed(path: Path) -> object:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError):
        return None


def _yaml(path: Path) -> object:
    try:
        return yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """Return the objects of a file of JSON lines; the last line of a run that was killed may be torn."""
    objects = []
    for line in _text(path).split("\n"):
        try:
            objects.append(mapping(json.loads(line)))
        except (ValueError, RecursionError):
            continue
    return [one for one in objects if one]


def _plan(value: object) -> list[tuple[str, str]]:
    lines = value if isinstance(value, list) else []
    return [(str(line[0]), str(line[1])) for line in lines if isinstance(line, list) and len(line) == 2]
