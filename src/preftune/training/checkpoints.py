"""Sealed checkpoints: each is written beside its place, synced, described by a manifest, and renamed into it.

A checkpoint is there as a whole or not at all, whenever the process is killed, and one whose files are not as they
were written is never used.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from preftune.seals import fault_of, known_by, to_disk

_MANIFEST = "manifest.json"
_ASIDE = ".partial"  # how the name of a directory ends that is no checkpoint yet, or no longer
_LEAST = 2  # checkpoints that are kept: were the newest to turn out torn, there is another


@dataclass(frozen=True, slots=True)
class Sealed:
    """A checkpoint that is as it was written.

    Attributes:
        path: Its directory.
        step: Optimizer steps done.
        steps: Optimizer steps that the run meant to do.
    """

    path: Path
    step: int
    steps: int


class Checkpoints:
    """The checkpoints of one run, in a directory of their own. One process at a time writes there.

    Attributes:
        directory: Where they are.
        going_on: The one that the run goes on from, as `newest` found it; None where it begins.
    """

    def __init__(
        self, directory: Path, identities: Sequence[str], keep: int | None = _LEAST, console: Console | None = None
    ) -> None:
        """Look after the checkpoints of a run.

        Args:
            directory: Where they are.
            identities: What the run is known by: first as which it saves, then as which it may have saved earlier.
            keep: How many of the newest are kept, at least two; None keeps all.
            console: Where to say what is found.
        """
        self.directory, self.identities = directory, identities
        self.keep = keep if keep is None else max(keep, _LEAST)
        self.console = console or Console()
        self.going_on: Sealed | None = None
        self._thread = ThreadPoolExecutor(1, "sealing")
        self._pending: Future[None] | None = None

    def save(self, step: int, steps: int, write: Callable[[Path], None]) -> None:
        """Let `write` fill a directory; a thread then seals it as that of `step`, and removes what is one too many.

        What `write` raises goes on, and costs no earlier checkpoint; so does what sealing the one before raised.
        """
        self.wait()
        partial = self.place_of(step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._pending = self._thread.submit(self._seal_or_remove, partial, step, steps)

    def place_of(self, step: int) -> Path:
        """Return the directory that the checkpoint of `step` is written to, before it is sealed."""
        return self.directory / f"step-{step}{_ASIDE}"

    def wait(self) -> None:
        """Return once the last checkpoint is sealed; raise what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def newest(self) -> Sealed | None:
        """Return the newest checkpoint that is as it was sealed, and say so; set aside those that are not."""
        self.wait()
        for leftover in self.directory.glob(f"*{_ASIDE}"):
            shutil.rmtree(leftover)
        self.going_on, aside = None, ""
        for step in reversed(self.steps()):
            found = _examined(self.directory / f"step-{step}", step, self.identities)
            if isinstance(found, Sealed):
                self.going_on = found
                break
            aside += f"; step-{step} was set aside: {found}"
            self._set_aside(step, found)
        if self.going_on is not None:
            at = f"{self.directory.name}/{self.going_on.path.name}"
            self._say(f"going on from step {self.going_on.step} of {self.going_on.steps} ({at}){aside}")
        elif aside:
            self._say(f"beginning anew, as no checkpoint is left{aside}")
        return self.going_on

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on from one of them."""
        return self.going_on is not None

    def steps(self) -> list[int]:
        """Return the steps that there are checkpoints of, in order."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.directory.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def _seal_or_remove(self, partial: Path, step: int, steps: int) -> None:
        try:
            self._seal(partial, step, steps)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _seal(self, partial: Path, step: int, steps: int) -> None:
        facts: dict[str, Any] = {"identity": self.identities[0], "step": step, "steps": steps}
        names = _files(partial)
        for name in names:
            to_disk(partial / name)
        facts["files"] = {name: known_by(partial / name) for name in names}
        (partial / _MANIFEST).write_text(json.dumps(facts | {"seal": _seal_of(facts)}, indent=1), encoding="utf-8")
        to_disk(partial / _MANIFEST)
        to_disk(partial)
        target = self.directory / f"step-{step}"
        _remove(target)
        partial.rename(target)
        to_disk(self.directory)
        for one_too_many in self.steps()[: -self.keep] if self.keep else ():
            _remove(self.directory / f"step-{one_too_many}")

    def _set_aside(self, step: int, reason: str) -> None:
        name, count = f"torn-step-{step}", 1
        while (self.directory / name).exists():
            name, count = f"torn-step-{step}-{count + 1}", count + 1
        (self.directory / f"step-{step}").rename(self.directory / name)
        (self.directory / f"{name}.txt").write_text(f"{reason}\n", encoding="utf-8")

    def _say(self, sentence: str) -> None:
        self.console.print(Text(sentence))


def _examined(path: Path, step: int, identities: Sequence[str]) -> Sealed | str:
    """Return the checkpoint, or what is wrong with it."""
    try:
        facts = json.loads((path / _MANIFEST).read_bytes())
        if facts.pop("seal") != _seal_of(facts) or facts["step"] != step:
            return f"{_MANIFEST} is not as it was sealed"
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is not as it was sealed"
    if facts["identity"] not in identities:
        return f"it is of another run, {facts['identity'][:8]}"
    if fault := fault_of(path, facts["files"]):
        return fault
    strangers = sorted(set(_files(path)) - {*facts["files"], _MANIFEST})
    return f"{strangers[0]} was not sealed with it" if strangers else Sealed(path, step, facts["steps"])


def _files(directory: Path) -> list[str]:
    """Return the files below `directory`; hidden ones are the file system's own."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _seal_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Take a checkpoint out of its place at once, and remove it then: a kill leaves no half of one there."""
    if path.exists():
        aside = path.with_name(f"{path.name}.old{_ASIDE}")
        path.rename(aside)
        shutil.rmtree(aside)
