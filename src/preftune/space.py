"""Room on disks: what will be written where, what is free there, and a sentence where it is not enough."""

import errno
import json
import os
import re
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from preftune.caches import FULL, cache_root
from preftune.refusals import Refusal, RunFailed

# What Rust and C++ beneath say of a full disk, whose errors carry no number.
_SAID = re.compile(r"(No space left on device|Disk quota exceeded|File too large)|StorageFull|inline_container\.cc")


@dataclass(frozen=True)
class Need:
    """Bytes that a run will write.

    Attributes:
        what: For a person, as `3 checkpoints`.
        place: Where, whether it is there or not.
        bytes: How many, beyond what is there.
    """

    what: str
    place: Path
    bytes: int

    def describe(self) -> str:
        """Return it in words."""
        return f"{self.what} {bytes_of(self.bytes)}"


def bytes_of(size: int) -> str:
    """Return bytes as a person reads them."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.{0 if size >= 10 * 2**20 else 1}f} MiB"


def free(place: Path) -> int:
    """Return how many bytes may be written to the file system of `place`; a quota is not seen."""
    found = os.statvfs(_there(place))
    return found.f_bavail * found.f_frsize


def refuse_short(needs: Sequence[Need]) -> None:
    """Refuse what does not fit, each file system with all that goes to it.

    Raises:
        Refusal: More is needed than is free.
    """
    together: dict[int, list[Need]] = {}
    for need in needs:
        together.setdefault(os.stat(_there(need.place)).st_dev, []).append(need)
    short = [group for group in together.values() if sum(need.bytes for need in group) > free(group[0].place)]
    if short:
        raise Refusal("\n".join(_short(group) for group in short))


def _short(group: Sequence[Need]) -> str:
    place = group[0].place
    parts = ", ".join(need.describe() for need in sorted(group, key=lambda need: -need.bytes))
    return (
        f"the disk of {place} must have {bytes_of(sum(need.bytes for need in group))} free, got "
        f"{bytes_of(free(place))}: {parts}; lower train.save_total_limit, set run.dir or PREFTUNE_CACHE to a larger "
        "disk, or make room with `python -m recipes.cache --prune`"
    )


@contextmanager
def failing_plainly(directory: Path) -> Iterator[None]:
    """Say what a disk without room costs, or a cache that was removed, and what to do; other exceptions go on.

    Args:
        directory: The run's, whose plan says what it needs.

    Raises:
        RunFailed: There was no room, or what was kept is gone.
    """
    try:
        yield
    except (Refusal, RunFailed):
        raise
    except Exception as error:
        if (cause := _without_room(error)) is not None:
            raise RunFailed(_sentence(cause, directory)) from error
        if isinstance(error, FileNotFoundError) and f"{cache_root()}{os.sep}" in str(error):
            raise RunFailed(
                f"{cache_root()} must stay while a run reads what is kept there, got {error}; start again, and what is "
                "missing is made again"
            ) from error
        raise


def _without_room(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        if not isinstance(error, OSError) and _SAID.search(str(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def _sentence(error: BaseException, directory: Path) -> str:
    said = _SAID.search(str(error))
    reason = said[1].lower() if said and said[1] else os.strerror(errno.ENOSPC).lower()
    file = error.filename if isinstance(error, OSError) else None
    if reason == os.strerror(errno.EFBIG).lower():
        reason += f" ({bytes_of(resource.getrlimit(resource.RLIMIT_FSIZE)[0])} is the most by `ulimit -f`)"
    places = {str(place): bytes_of(free(place)) for place in (directory, cache_root())}
    left = " and ".join(f"{room} at {place}" for place, room in places.items())
    return (
        f"there must be room for what the run writes, got {reason}{f' for {file}' if file else ''}; free are {left}"
        f"{_planned(directory)}. What was whole before is as it was. Make room, as with "
        "`python -m recipes.cache --prune`, or set run.dir or PREFTUNE_CACHE to a larger disk, and start again"
    )


def _planned(directory: Path) -> str:
    """Return what the run's plan says of the disk; nothing where it came to none."""
    with suppress(OSError, ValueError):
        lines: Mapping[str, str] = dict(json.loads((directory / "plan.json").read_bytes()))
        return f"; needed are {lines['disk']}" if "disk" in lines else ""
    return ""


def _there(place: Path) -> Path:
    """Return the nearest directory above `place`, or itself, that exists."""
    place = place.absolute()
    return next(each for each in (place, *place.parents) if each.is_dir())
