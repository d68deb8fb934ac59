"""Compare runs, or read what a sweep came to: a ranked table, a frontier, learning curves, and which job to take."""

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from preftune.refusals import Refusal
from preftune.reporting.comparison import Comparison, read_runs, read_sweep
from preftune.reporting.comparison_files import write_comparison
from preftune.reporting.comparison_terminal import print_comparison
from preftune.reporting.measures import OBJECTIVES
from preftune.runs.exits import exits


def arguments() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.compare", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="runs/RUN ... | sweeps/NAME")
    parser.add_argument(
        "--objective", choices=["auto", *OBJECTIVES], help="what to rank by; a sweep's own where it is not given"
    )
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="where to write it")
    return parser


def main() -> None:
    """Print the comparison and write its files."""
    asked = arguments().parse_args()
    with exits():
        comparison = read(asked.directories, asked.objective)
        directory = asked.out or place(asked.directories, comparison)
        print_comparison(comparison, write_comparison(directory, comparison))


def read(directories: Sequence[Path], objective: str | None) -> Comparison:
    """Read one sweep, or runs."""
    sweeps = [directory for directory in directories if (directory / "sweep.json").is_file()]
    if not sweeps:
        return read_runs(directories, objective)
    if len(directories) > 1:
        raise Refusal(f"a sweep must be given alone, got {len(directories)} directories, of which {sweeps[0]} is one")
    return read_sweep(sweeps[0], objective)


def place(directories: Sequence[Path], comparison: Comparison) -> Path:
    """Return the sweep's own directory, or one named after which runs they are."""
    if comparison.sweep:
        return directories[0]
    runs = "\n".join(sorted(str(directory.resolve()) for directory in directories))
    return Path("comparisons") / sha256(runs.encode()).hexdigest()[:8]


if __name__ == "__main__":
    main()
