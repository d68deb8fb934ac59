"""What differs between the start that a run's directory holds and the one that would go on from it.

1. Settings and contents of files count always, versions and code only where there is a checkpoint to go on from.
2. What differs is refused by its key, unless `run.allow_change` names it; each such change is recorded.
3. What would not fit the checkpoints, or the place among the pairs at which they stand, is refused also then.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftune.refusals import Refusal, refuse_all
from preftune.settings import did_you_mean, shown

_FIXED = (
    (r"model\.(?!(name|start|attention|learning_rate)$)", "its checkpoints are of that model"),
    (r"adapter\.(?!dropout$)|method$", "its checkpoints are of that adapter"),
    (r"train\.optim(_args|_target_modules)?$", "its checkpoints hold the state of that optimizer"),
    (r"data\.(?!name$)|seed$|template$", "its checkpoints stand at a place among those pairs"),
    (
        r"train\.(max_length|global_batch_size|data_seed|dataloader_drop_last|dataloader_in_order)$",
        "its checkpoints stand at a place among the batches that it makes",
    ),
)
# What is known only once model and data are loaded, in manifest.json.
_LOADED = (("model", "commit"), ("template",), ("data", "fingerprint"))


class _Absent:
    """Stands for a key that one side has not."""

    def __repr__(self) -> str:
        return "not given"


_ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        key: Dotted key of a setting, `versions.<package>`, or `code`.
        there: What the directory's run has; `{"content": hash}` where contents of files count.
        here: What this start has.
    """

    key: str
    there: object
    here: object

    @property
    def why_fixed(self) -> str | None:
        """Why nothing can go on with this; None where it can."""
        return next((why for pattern, why in _FIXED if re.match(pattern, self.key)), None)

    def sentence(self) -> str:
        """Say what differs."""
        if isinstance(self.there, Mapping) and isinstance(self.here, Mapping):
            return f"{self.key}: other content"
        return f"{self.key}: {_said(self.there)} there, {_said(self.here)} here"

    def record(self, step: int, time: str) -> dict[str, object]:
        """Return what manifest.json keeps of it."""
        there, here = (None if side is _ABSENT else side for side in (self.there, self.here))
        return {"key": self.key, "from": there, "to": here, "step": step, "time": time}


@dataclass(frozen=True, slots=True)
class Start:
    """What a start of a run is made from.

    Attributes:
        identity: 64 hexadecimal digits.
        made_from: What was hashed to that, by key.
        code: Versions and the hash of preftune's source, by key.
        settings: All keys of the configuration.
        allow_change: Keys that may differ from what the directory holds.
        is_job: Whether it belongs to a sweep, whose jobs share `allow_change`.
    """

    identity: str
    made_from: Mapping[str, object] = field(default_factory=dict)
    code: Mapping[str, object] = field(default_factory=dict)
    settings: Iterable[str] = ()
    allow_change: Sequence[str] = ()
    is_job: bool = False


def allowed_changes(
    path: Path, manifest: Mapping[str, Any] | None, start: Start, *, complete: bool, checkpoint: int | None
) -> list[Change]:
    """Return what differs from the run that a directory holds, all of it allowed.

    Args:
        path: The directory.
        manifest: Its manifest.json; None for a directory that holds no run.
        start: What would go on there.
        complete: Whether the run there is complete.
        checkpoint: Step of its last checkpoint; None where it has none.

    Raises:
        Refusal: Something differs that is not allowed or cannot be, or `run.allow_change` names what does not differ.
    """
    _refuse_unknown(start, manifest or {})
    if manifest is None:
        _refuse_idle(path, start, set(), f"{path} holds no run")
        return []
    is_other = manifest["identity"] != start.identity
    kept = manifest.get("made_from") or start.made_from
    changes = list(_between(kept, start.made_from)) if is_other else []
    if is_other and not changes:
        raise Refusal(_refusal(path, manifest, start, [], ended=False))
    if checkpoint is not None and (is_other or not complete):
        known = _code(manifest)
        common = known.keys() & start.code.keys()
        changes += _between({key: known[key] for key in common}, {key: start.code[key] for key in common})
    named = set(start.allow_change)
    ended = complete and checkpoint is None
    forbidden = [change for change in changes if change.key not in named or change.why_fixed or ended]
    if forbidden:
        raise Refusal(_refusal(path, manifest, start, changes, ended=ended))
    recorded = {(change["key"], str(change["to"])) for change in manifest.get("changes", [])}
    here = {**start.made_from, **start.code}
    done = {change.key for change in changes}
    done |= {key for key in named if (key, str(here.get(key))) in recorded}
    _refuse_idle(path, start, done, f"it is the same in {path}")
    return changes


def refuse_other_inputs(path: Path, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse a model, template or data, now loaded, that are not those which a directory's checkpoints are of.

    Args:
        path: The directory.
        manifest: What manifest.json held when the run there was last begun.
        facts: What is now loaded, by the same keys.

    Raises:
        Refusal: Something differs.
    """
    pairs = [(".".join(keys), _at(manifest, keys), _at(facts, keys)) for keys in _LOADED]
    other = [Change(key, there, here) for key, there, here in pairs if None not in (there, here) and there != here]
    if other:
        raise Refusal(
            f"what is loaded must be what the checkpoints in {path} are of, got\n"
            + "\n".join(f"  {change.sentence()}" for change in other)
            + "\nset run.dir to another directory"
        )


def last_checkpoint(path: Path) -> int | None:
    """Return the step of the last checkpoint in a run's directory, sound or not; None where there is none."""
    names = (each.name.removeprefix("step-") for each in (path / "checkpoints").glob("step-*"))
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _code(manifest: Mapping[str, Any]) -> dict[str, object]:
    found = {f"versions.{name}": version for name, version in manifest.get("versions", {}).items()}
    return found | ({"code": manifest["code"]} if "code" in manifest else {})


def _between(there: Mapping[str, object], here: Mapping[str, object]) -> Iterator[Change]:
    for key in sorted({*there, *here}):
        sides = there.get(key, _ABSENT), here.get(key, _ABSENT)
        if sides[0] != sides[1]:
            yield Change(key, *sides)


def _refusal(path: Path, manifest: Mapping[str, Any], start: Start, changes: list[Change], *, ended: bool) -> str:
    elsewhere = "set run.dir to another directory, or to null to name it after the run"
    if not changes:
        return (
            f"run directory must be empty or hold this run ({start.identity[:8]}), got {path}, which holds run "
            f"{manifest['identity'][:8]}: another configuration or other data; {elsewhere}"
        )
    fixed = [change.key for change in changes if change.why_fixed]
    if ended:
        end = f"it is complete and has no checkpoint to go on from; {elsewhere}; adapter.path goes on from its adapter"
    elif fixed:
        end = f"run.allow_change cannot allow {', '.join(fixed)}; {elsewhere}"
    else:
        names = ",".join(change.key for change in changes)
        end = f"{elsewhere}; run.allow_change=[{names}] goes on all the same"
    first = f"run directory must be empty or hold this very run, got {path}, which holds a run that differs in"
    lines = [f"  {change.sentence()}{f'; {change.why_fixed}' if change.why_fixed else ''}" for change in changes]
    return "\n".join([first, *lines, end])


def _refuse_unknown(start: Start, manifest: Mapping[str, Any]) -> None:
    known = {*start.made_from, *manifest.get("made_from", ()), *start.code}
    faults = []
    for name in start.allow_change:
        if name in known:
            continue
        why = ", which changes no result and may differ" if name in start.settings else did_you_mean(name, known)
        faults.append(f"run.allow_change must name settings of the run, versions or code, got {name}{why}")
    refuse_all(faults)


def _refuse_idle(path: Path, start: Start, done: set[str], why: str) -> None:
    """Refuse names in `run.allow_change` that are not in `done`; of a sweep's jobs not each has other versions."""
    shared = start.code.keys() if start.is_job else ()
    idle = [name for name in start.allow_change if name not in done and name not in shared]
    refuse_all(
        [
            f"run.allow_change must name what differs from the run that goes on, got {name}: {why}; leave it out, or "
            "set run.dir to that run's directory"
            for name in idle
        ]
    )


def _at(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        values = (values or {}).get(key) or {}
    return values or None


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return "a local copy"
    return repr(value) if value is _ABSENT else value if isinstance(value, str) else shown(value)
