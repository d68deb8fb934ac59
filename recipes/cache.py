"""Look at what preftune keeps to save time: pairs, ids, references, the toy. Verify it, or remove it.

All of it is made again where it is missing.
"""

import argparse

from preftune.caches import cache_root
from preftune.reporting.cache_terminal import print_entries, print_faults, print_removed
from preftune.runs.exits import exits
from preftune.runs.kept import KINDS, Entry, entries, remove


def arguments() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.cache", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, help="look at this kind alone")
    parser.add_argument("--older-than", type=_days, default=0.0, metavar="DAYS", help="not used for this long")
    parser.add_argument("--verify", action="store_true", help="read all of it, and say what is not as it was sealed")
    parser.add_argument(
        "--prune", action="store_true", help="remove it; with --verify only what is harmed; what is in use stays"
    )
    return parser


def main() -> None:
    """List, verify or remove what is kept."""
    asked = arguments().parse_args()
    with exits():
        found = [entry for entry in entries(cache_root(), _kinds(asked.kind)) if entry.days >= asked.older_than]
        if not (asked.verify or asked.prune):
            print_entries(found, cache_root())
        elif asked.verify:
            faults = {entry.place: faults for entry in found if (faults := entry.faults())}
            print_faults(faults, len(found))
            found = [entry for entry in found if entry.place in faults]
        if asked.prune:
            prune(found, faulty=asked.verify)
        elif asked.verify and found:
            raise SystemExit(1)


def prune(found: list[Entry], *, faulty: bool) -> None:
    """Remove entries, but for those in use; of a `faulty` reference only what is harmed."""
    gone = {entry.place: remove(entry, faulty=faulty) for entry in found}
    print_removed([entry for entry in found if gone[entry.place]], [entry for entry in found if not gone[entry.place]])


def _kinds(kind: str | None) -> tuple[str, ...]:
    return (kind,) if kind else tuple(KINDS)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of days, at least 0, got {text!r}")
    return days


if __name__ == "__main__":
    main()
