"""Where preftune keeps what it can make again: under the user's cache directory, or `$PREFTUNE_CACHE`."""

import os
from pathlib import Path

import platformdirs


def cache_directory(*parts: str) -> Path:
    """Return the directory `parts` below preftune's cache, made where it is missing."""
    root = os.environ.get("PREFTUNE_CACHE") or platformdirs.user_cache_dir("preftune")
    directory = Path(root).joinpath(*parts)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
