"""What stands in the cache, entry by entry: what it was made from, whether it is whole, and its removal.

Only names that preftune gives, in directories that it makes, are looked at: `$PREFTUNE_CACHE` may hold other things.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from preftune import caches
from preftune.data.contents import kept_digest

KINDS = {
    "data": ("pairs", "tokens", "hashes"),
    "reference": ("reference",),
    "toy": ("toy", "toy/answers"),
}
_NAME = re.compile(r"(?P<key>[0-9a-f]{16,32}(-\d+)?)(?P<part>(\.\w+)*\.partial)?")
_LEFT = "left by a process that was killed"
_DAY = 86_400  # s


@dataclass(frozen=True)
class Entry:
    """Something that is kept.

    Attributes:
        kind: `data`, `reference` or `toy`.
        place: Its directory, or its file.
        key: What it is named after.
        of: What it was made from; empty where it does not say.
        pairs: How many pairs it holds; None where it does not say.
        bytes: What it takes on the disk.
        used: When it was last used, in seconds since 1970.
        left: Whether it is part of an entry that a killed process did not finish.
    """

    kind: str
    place: Path
    key: str
    of: str
    pairs: int | None
    bytes: int
    used: float
    left: bool

    @property
    def days(self) -> float:
        """Days since it was used; 0 where the clock was set back since."""
        return max(0.0, (time.time() - self.used) / _DAY)

    def faults(self) -> list[str]:
        """Read all of it; return what is not as it was sealed."""
        if self.left:
            return [_LEFT]
        if self.place.is_file():
            return [] if kept_digest(self.place) else ["not as it was written"]
        if self.kind == "reference":
            return [f"{file.name[:8]} is torn or changed" for file in _torn(self.place)]
        return [] if caches.verified(self.place) else ["not as it was sealed"]


def entries(root: Path, kinds: Iterable[str] = tuple(KINDS)) -> list[Entry]:
    """Return what is kept below `root`, by kind, what was used last first."""
    found = []
    for kind in kinds:
        of_kind = [entry for folder in KINDS[kind] for entry in _entries(root / folder, kind)]
        found += sorted(of_kind, key=lambda entry: -entry.used)
    return found


def remove(entry: Entry, *, faulty: bool = False) -> bool:
    """Remove an entry unless a process uses or makes it; return whether it is gone.

    Args:
        entry: The entry.
        faulty: Of a reference remove only the shards that are torn: the others took long to compute.
    """
    lock = FileLock(entry.place.with_name(f"{entry.key}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if faulty and entry.kind == "reference" and not entry.left:
            for file in _torn(entry.place):
                file.unlink(missing_ok=True)
            return True
        gone = caches.remove(entry.place)
        if gone and not entry.left:
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it sees that, and makes it anew
        return gone
    finally:
        lock.release()


def _entries(folder: Path, kind: str) -> Iterator[Entry]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for place in sorted(folder.iterdir()):
            name = _NAME.fullmatch(place.name)
            with suppress(FileNotFoundError):  # it goes while it is looked at
                if name:
                    yield _entry(place, kind, name["key"], left=bool(name["part"]))


def _entry(place: Path, kind: str, key: str, *, left: bool) -> Entry:
    status = place.stat()
    files = list(place.iterdir()) if place.is_dir() else [place]
    of, pairs = ("", None) if left else _made_from(place, kind)
    return Entry(kind, place, key, of, pairs, sum(file.stat().st_size for file in files), status.st_mtime, left)


def _made_from(place: Path, kind: str) -> tuple[str, int | None]:
    if place.is_file():
        return "hash of a file", None
    if kind == "reference":
        headers = [_header(file) for file in place.glob("*.safetensors")]
        pairs = sum(header["digests"]["shape"][0] for header in headers if "digests" in header)
        stamps = (header.get("__metadata__", {}).get("reference", "") for header in headers)
        return next((of for stamp in stamps if (of := stamp.partition(" ")[2])), ""), pairs
    seal, facts = (_json(place / name) for name in (caches.SEAL, "facts.json"))
    return str(seal.get("of", "")), sum(facts["sizes"]) if "sizes" in facts else None


def _json(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        value = json.loads(file.read_bytes())
        return value if isinstance(value, dict) else {}
    return {}


def _header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: JSON behind its length, 8 bytes; empty where it is harmed."""
    with suppress(OSError, ValueError), file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        value = json.loads(content.read(min(length, 1 << 20)))
        return value if isinstance(value, dict) else {}
    return {}


def _torn(directory: Path) -> list[Path]:
    """Return the files of a reference's store that are not as their names say."""
    return [file for file in sorted(directory.iterdir()) if file.suffix != ".safetensors" or not _is_named(file)]


def _is_named(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.stem
    return False
