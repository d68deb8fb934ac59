"""Log-probabilities under the reference, token by token, kept on disk for every run that has the same reference.

Each reference has a directory, named by `reference_key`, and each pair is known in it by the digest of its ids: data
that were filtered or have grown find what they share, and only what is missing is computed.
"""

import hashlib
import os
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from preftune.caches import ASIDE, hold
from preftune.data.store import Numbers
from preftune.training.reference_keys import DIGEST

_TRIES = 3  # times that a shard is written where its directory is removed meanwhile


class _Shard:
    """Some pairs in one file that does not change."""

    def __init__(self, file: Path, key: str) -> None:
        """Open `file`; its values stay on disk.

        Raises:
            ValueError: It holds something else than pairs of the reference `key`; the message says what.
        """
        try:
            self._file = content = _opened(file)
            self.digests: Numbers = content.get_tensor("digests")
            self.lengths: Numbers = content.get_tensor("lengths")
            self._values = content.get_slice("values")
        except SafetensorError as error:
            raise ValueError("in another form") from error
        if (content.metadata() or {}).get("reference", "").partition(" ")[0] != key:
            raise ValueError("made for another reference")
        if not _fit(self.digests, self._values.get_shape(), self.lengths):
            raise ValueError("in another form")
        self._ends = np.concatenate([[0], self.lengths.sum(axis=1, dtype=np.int64).cumsum()])

    def values(self, row: int) -> Numbers:
        found: Numbers = self._values[int(self._ends[row]) : int(self._ends[row + 1])]
        return found


def _opened(file: Path) -> Any:
    return safe_open(str(file), "numpy")


def _fit(digests: Numbers, values: Sequence[int], lengths: Numbers) -> bool:
    """Tell whether digests and lengths are those of as many values as the shape `values` says."""
    fits = digests.ndim == lengths.ndim == 2 and digests.shape[1] == DIGEST and lengths.shape[1] == 2
    fits = fits and digests.dtype == np.uint8 and len(digests) == len(lengths) and not (lengths < 0).any()
    return fits and list(values) == [lengths.sum()]


def _sortable(digests: Numbers) -> Numbers:
    # numpy sorts and compares byte strings, but no rows; one of 16 bytes is never cut at a zero byte within it.
    found: Numbers = np.ascontiguousarray(digests, np.uint8).view(f"S{DIGEST}").ravel()
    return found


class ReferenceStore:
    """Log-probabilities of pairs under one reference.

    A shard's name is the digest of its bytes, and it states the key that it was made for. What is not as its name
    says (torn, cut, emptied, changed, renamed), or was made for another reference, is removed with a warning, never
    read. Shards are read into memory but for their values: 32 bytes a pair.

    Attributes:
        directory: Where the shards are; its name is the reference's key.
        console: Where warnings go.
    """

    _sorted: tuple[Numbers, Numbers] | None  # digests of all pairs, sorted, and their places

    def __init__(self, directory: Path, console: Console | None = None, of: str = "") -> None:
        """Read what is kept in `directory`, which is made where it is missing; `of` names the model, for a person."""
        self.directory = directory
        self.console = console or Console()
        self.of = of
        directory.mkdir(parents=True, exist_ok=True)
        hold(directory)
        self._lock = FileLock(directory.with_name(f"{directory.name}.lock"))
        self._forget()
        self.load()

    def __len__(self) -> int:
        return self._starts[-1]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from adding, and see first what they have added: what is missing then is ours to do."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            self.console.print("waiting for another run, which computes the same reference")
            self._lock.acquire()
        try:
            for leftover in self.directory.glob(f"*{ASIDE}"):  # of a process that was killed: its lock is free
                leftover.unlink(missing_ok=True)
            self.load()
            yield
        finally:
            self._lock.release()

    def load(self) -> None:
        """Read the shards that other processes have added since. Where one is gone, all places change."""
        files = {file.name: file for file in self.directory.glob("*.safetensors")}
        if not files.keys() >= self._names:
            self._forget()
        faults: Counter[str] = Counter()
        for name in sorted(files.keys() - self._names):
            try:
                self._read(files[name])
            except FileNotFoundError:  # another process has removed it
                continue
            except OSError:  # as where too many files are open: nothing is known against it, and so it stays
                faults["unreadable"] += 1
            except ValueError as error:
                faults[str(error)] += 1
                with suppress(OSError):
                    files[name].unlink()
        if faults:
            counts = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
            self.console.print(
                Text(f"warning: kept reference log-probabilities are left out and computed again: {counts}", "yellow")
            )

    def find(self, digests: Numbers) -> Numbers:
        """Return the place of each pair, of shape `(pairs,)`; -1 where it is missing.

        Args:
            digests: Of shape `(pairs, 16)`, as `row_digests` gives them.
        """
        wanted = _sortable(digests)
        if not len(self):
            return np.full(len(wanted), -1)
        if self._sorted is None:
            known = np.concatenate([_sortable(shard.digests) for shard in self._shards])
            order = np.argsort(known, kind="stable")
            self._sorted = known[order], order
        known, order = self._sorted
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[places] == wanted, order[places], -1)

    def values(self, place: int) -> Numbers:
        """Return the log-probabilities of a pair's chosen tokens, then of its rejected ones, in nats."""
        shard, row = self._at(place)
        return shard.values(row)

    def lengths(self, place: int) -> tuple[int, int]:
        """Return how many of `values` are of chosen tokens and how many of rejected ones."""
        shard, row = self._at(place)
        return int(shard.lengths[row, 0]), int(shard.lengths[row, 1])

    def add(self, digests: Numbers, values: Numbers, lengths: Numbers) -> None:
        """Keep more pairs, as one more shard: a thousand pairs or more at a time, as each has its file.

        Args:
            digests: Of shape `(pairs, 16)` and type uint8.
            values: Log-probabilities in nats, float32 or float64: of the first pair's chosen tokens, of its rejected
                ones, of the second pair's chosen ones, and so on.
            lengths: How many they are, of shape `(pairs, 2)`.

        Raises:
            ValueError: The three do not fit together, or a value is not finite.
        """
        if not _fit(digests, values.shape, lengths):
            raise ValueError(
                "digests, values and lengths must have the shapes (N, 16), (sum of lengths,) and (N, 2), "
                f"got {digests.shape}, {values.shape} and {lengths.shape} with sum {lengths.sum()}"
            )
        if values.dtype not in (np.float32, np.float64):
            raise ValueError(f"values must be float32 or float64, got {values.dtype}")
        if not (finite := np.isfinite(values)).all():
            raise ValueError(f"values must be finite, got {values[~finite][0]}")
        if not len(digests):
            return
        tensors = {"digests": digests, "lengths": lengths.astype(np.int32), "values": values}
        raw = save(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
            {"reference": f"{self.directory.name} {self.of}"},  # of several entries the order would be random
        )
        with self._lock:
            for _ in range(_TRIES):
                with suppress(FileNotFoundError):  # the directory was removed meanwhile
                    self._keep(raw)
                    return
            self._keep(raw)

    def discard(self) -> None:
        """Remove all that is kept of this reference."""
        with self._lock:
            for file in self.directory.glob("*.safetensors"):
                file.unlink(missing_ok=True)
        self._forget()

    def _keep(self, raw: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        hold(self.directory)
        # No other process has this name, even where the lock was removed with all that is kept.
        partial = self.directory / f"{secrets.token_hex(4)}{ASIDE}"
        try:
            with partial.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())  # else a power cut after the rename leaves an empty file
            sealed = partial.replace(self.directory / f"{hashlib.sha256(raw).hexdigest()}.safetensors")
        finally:
            partial.unlink(missing_ok=True)
        if sealed.name not in self._names:
            self._read(sealed)

    def _forget(self) -> None:
        self._names: set[str] = set()
        self._shards: list[_Shard] = []
        self._starts = [0]
        self._sorted = None

    def _read(self, file: Path) -> None:
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.stem:
                raise ValueError("torn or changed")
        shard = _Shard(file, self.directory.name)
        self._names.add(file.name)
        self._shards.append(shard)
        self._starts.append(len(self) + len(shard.digests))
        self._sorted = None

    def _at(self, place: int) -> tuple[_Shard, int]:
        if not 0 <= place < len(self):
            raise IndexError(f"place must be from 0 to below {len(self)}, got {place}")
        number = bisect_right(self._starts, place) - 1
        return self._shards[number], int(place) - self._starts[number]
