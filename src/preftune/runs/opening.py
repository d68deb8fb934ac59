"""From choices to the run's directory: what makes this run the run it is, and where it stands."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from preftune.caches import code_hash
from preftune.data.settings import SourceSettings
from preftune.plugins import source_file
from preftune.runs.directory import RunDirectory
from preftune.runs.identity import directory_name, identity, local_contents

# Settings that name a file or directory whose content, not whose place, makes the run.
_INPUTS = ("model.path", "model.chat_template", "adapter.path")


def identify(resolved: Mapping[str, Mapping[str, Any]]) -> tuple[Path, str]:
    """Return the directory of a run, and its identity.

    Args:
        resolved: The resolved configuration as plain nested maps. `run.dir` names the directory; null names it
            after model, data, loss and identity, below `runs/`.

    Raises:
        Refusal: A local input does not exist.
    """
    inputs = {key: resolved[group].get(name) for key in _INPUTS for group, name in [key.split(".")]}
    contents = local_contents(inputs, _sources(resolved["data"])) | _own_code(resolved)
    identified = identity(resolved, contents)
    model, data, loss = (str(resolved[group]["name"]) for group in ("model", "data", "loss"))
    return Path(resolved["run"]["dir"] or Path("runs") / directory_name(model, data, loss, identified)), identified


@contextmanager
def open_run(resolved: Mapping[str, Mapping[str, Any]], *, scratch: bool) -> Iterator[RunDirectory]:
    """Hold the run's directory for the while.

    Args:
        resolved: As `identify` takes it.
        scratch: Use a temporary directory that is removed at the end: for a run that trains nothing.

    Raises:
        Refusal: A local input does not exist, or the directory cannot be used.
    """
    path, identified = identify(resolved)
    with ExitStack() as stack:
        if scratch:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
        yield stack.enter_context(RunDirectory.open(path, identified))


def _own_code(resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the hash of each module that holds a function of the user's own, with the function's name, by key."""
    terms = resolved["loss"].get("terms") or {}
    named = {"loss.name": resolved["loss"]["name"], "data.dialect": resolved["data"].get("dialect")}
    named |= {f"loss.terms.{name}.function": term.get("function") for name, term in terms.items()}
    found = {key: source_file(path) for key, path in named.items() if path and "." in path}
    return {key: f"{code_hash(file)} {named[key].rpartition('.')[2]}" for key, file in found.items() if file}


def _sources(data: Mapping[str, Any]) -> dict[str, tuple[str | None, str]]:
    """Return path and split of the sources of `data`, by key; the split counts where a path holds several."""
    default = SourceSettings.model_fields["split"].default
    entries = {"data": data} | {f"data.mix.{place}": entry for place, entry in enumerate(data.get("mix") or [])}
    return {f"{key}.path": (entry.get("path"), entry.get("split") or default) for key, entry in entries.items()}
