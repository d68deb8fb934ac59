"""The code that a run is made by: versions of packages, and of preftune its very source."""

from functools import cache
from importlib import metadata
from pathlib import Path

import preftune
from preftune.data.contents import files_hash

_PACKAGES = ("preftune", "torch", "trl", "transformers", "peft", "datasets", "bitsandbytes", "accelerate")


@cache
def versions() -> dict[str, str | None]:
    """Return the version of each package; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


@cache
def code() -> str:
    """Return the first 16 hexadecimal digits of the hash of preftune's own modules."""
    source = Path(preftune.__file__).parent
    return files_hash({path.relative_to(source).as_posix(): path for path in source.rglob("*.py")})[:16]
