"""From choices to the run's directory: what makes this run the run it is, and where it stands."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from preftune.caches import code_hash
from preftune.data.settings import SourceSettings
from preftune.plugins import source_file
from preftune.runs import versions
from preftune.runs.changes import Start
from preftune.runs.directory import RunDirectory
from preftune.runs.identity import directory_name, flat, identity, local_contents, made_from

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
    return _identify(resolved, _contents(resolved))


@contextmanager
def open_run(resolved: Mapping[str, Mapping[str, Any]], *, scratch: bool) -> Iterator[RunDirectory]:
    """Hold the run's directory for the while; a job of a sweep waits for the process that holds it.

    Args:
        resolved: As `identify` takes it.
        scratch: Use a temporary directory that is removed at the end: for a run that trains nothing.

    Raises:
        Refusal: A local input does not exist, the directory cannot be used, or what it holds differs by more than
            `run.allow_change` names.
    """
    contents = _contents(resolved)
    path, identified = _identify(resolved, contents)
    is_job = bool(resolved.get("sweep", {}).get("name"))
    start = Start(
        identified,
        made_from(resolved, contents),
        {"code": versions.code(), **{f"versions.{name}": version for name, version in versions.versions().items()}},
        flat(resolved).keys(),
        () if scratch else resolved["run"].get("allow_change", ()),
        is_job,
    )
    with ExitStack() as stack:
        if scratch:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
        yield stack.enter_context(RunDirectory.open(path, start, partial(_wait, path) if is_job else None))


def _wait(path: Path, holder: str) -> None:
    sys.stderr.write(f"{path} is in use by {holder}; waiting for it\n")


def _identify(resolved: Mapping[str, Mapping[str, Any]], contents: Mapping[str, str]) -> tuple[Path, str]:
    identified = identity(resolved, contents)
    model, data, loss = (str(resolved[group]["name"]) for group in ("model", "data", "loss"))
    return Path(resolved["run"]["dir"] or Path("runs") / directory_name(model, data, loss, identified)), identified


def _contents(resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    inputs = {key: resolved[group].get(name) for key in _INPUTS for group, name in [key.split(".")]}
    return local_contents(inputs, _sources(resolved["data"])) | _own_code(resolved)


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
