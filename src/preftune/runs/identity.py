"""What makes two runs the same run: a hash of everything that changes the result, and of nothing else."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from preftune.data.contents import file_hash, files_hash
from preftune.data.files import local_source
from preftune.refusals import Refusal, refuse_all

_SAY_WHERE_NOT_WHAT = frozenset({"track", "launch", "run", "sweep", "dry_run"})

_LONGEST = 200  # bytes of a directory's name before the identity; file systems take 255 in all

_TRAIN_KEYS_WITHOUT_EFFECT = frozenset(
    {
        "name",  # of the file in conf/train; its values are what counts
        # What is shown, and when.
        "disable_tqdm",
        "include_num_input_tokens_seen",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_first_step",
        "logging_nan_inf_filter",
        "logging_steps",
        "logging_strategy",
        "project",
        "report_to",
        "run_name",
        "skip_memory_metrics",
        # What is kept beside the final weights.
        "output_dir",
        "push_to_hub",
        "save_on_each_node",
        "save_only_model",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        # How fast batches arrive. `dataloader_in_order` stays in: it changes their order.
        "dataloader_multiprocessing_context",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "dataset_num_proc",
        "ddp_timeout",
        "torch_empty_cache_steps",
    }
)


def identity(configuration: Mapping[str, object], contents: Mapping[str, str]) -> str:
    """Hash everything that changes a run's result.

    Left out are `track`, `launch`, `run`, `sweep`, `dry_run`, and the keys under `train` that change only
    what is shown, what is kept, or how fast batches arrive. Key order does not matter, and 1 equals 1.0.

    Args:
        configuration: The resolved configuration as plain nested maps. DPOConfig's keys may stand in `train`
            or in `train.dpo`.
        contents: Content hashes of local inputs by dotted key, for instance `data.path` or `data.mix.0.path`,
            as `local_contents` returns them. The hash stands in for the configuration's value at that key, so
            that a copy elsewhere is the same run.

    Returns:
        64 hexadecimal digits.
    """
    counted = {"configuration": _counted(configuration, contents), "contents": contents}
    return hashlib.sha256(json.dumps(_canonical(counted), sort_keys=True).encode()).hexdigest()


def made_from(configuration: Mapping[str, object], contents: Mapping[str, str]) -> dict[str, object]:
    """Return what `identity` hashes, by dotted key: values as JSON holds them, and contents as `{"content": hash}`."""
    settings = {key: _canonical(value) for key, value in flat(_counted(configuration, contents)).items()}
    return settings | {_as_typed(key): {"content": content} for key, content in contents.items()}


def flat(values: object, key: str = "") -> dict[str, object]:
    """Return what stands in nested maps, and in lists of maps, by dotted key with places of lists in brackets."""
    if isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        values = {str(place): value for place, value in enumerate(values)}
    if not isinstance(values, Mapping) or not values:
        return {_as_typed(key): values}
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flat(value, f"{key}.{name}" if key else str(name))
    return found


def _as_typed(key: str) -> str:
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key)


def directory_name(model: str, data: str, loss: str, identity: str) -> str:
    """Return `<model>-<data>-<loss>-<8 hex>`, one path component whatever the names hold."""
    names = re.sub(r"[^\w.-]", "_", f"{model}-{data}-{loss}").encode()[:_LONGEST].decode(errors="ignore")
    return f"{names}-{identity[:8]}"


def local_contents(
    paths: Mapping[str, str | None], sources: Mapping[str, tuple[str | None, str]] | None = None
) -> dict[str, str]:
    """Hash the local files and directories that a run reads.

    Args:
        paths: Files or directories by the dotted key that names them; null is skipped.
        sources: Sources of rows by the dotted key that names them: a file, a glob or a saved data set, and its
            split; null is skipped.

    Returns:
        SHA-256 by the same keys: of a file's bytes, or of the sorted relative names of several files and their
        bytes. Hidden entries of a directory (`.git`, `.cache`) do not count.

    Raises:
        Refusal: A path does not exist or cannot be read. All such paths are named.
    """
    given = {name: Path(path) for name, path in paths.items() if path is not None}
    faults = [
        f"{name} must name an existing file or directory, got {str(path)!r}"
        for name, path in given.items()
        if not path.exists()
    ]
    found = {}
    for name, (path, split) in (sources or {}).items():
        if path is not None:
            try:
                found[name] = local_source(path, split, _as_typed(name))
            except Refusal as refusal:
                faults.append(str(refusal))
    refuse_all(faults)
    contents = {name: _content_hash(name, path) for name, path in given.items()}
    return contents | {name: source.content_hash() for name, source in found.items()}


def _content_hash(name: str, path: Path) -> str:
    try:
        return files_hash(_visible(path)) if path.is_dir() else file_hash(path)
    except OSError as error:
        raise Refusal(f"{name} must be readable, got {error.strerror} for {error.filename!r}") from error


def _visible(directory: Path) -> dict[str, Path]:
    return {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    }


def _counted(configuration: Mapping[str, object], contents: Mapping[str, str]) -> Mapping[str, object]:
    kept = {key: value for key, value in configuration.items() if key not in _SAY_WHERE_NOT_WHAT}
    if isinstance(train := kept.get("train"), Mapping):
        kept["train"] = _with_effect(train)
    for name in contents:
        kept = _without(kept, name.split("."))
    return kept


def _with_effect(train: Mapping[str, object]) -> dict[str, object]:
    nested = train.get("dpo")
    keys = {**train, **(nested if isinstance(nested, Mapping) else {})}
    keys.pop("dpo", None)
    kept = {key: value for key, value in keys.items() if key not in _TRAIN_KEYS_WITHOUT_EFFECT}
    if keys.get("eval_strategy") == "steps" and not keys.get("eval_steps"):
        kept["eval_steps"] = keys.get("logging_steps")  # transformers evaluates when it logs
    if keys.get("load_best_model_at_end"):  # then a saved checkpoint may become the final weights
        kept |= {key: keys.get(key) for key in ("save_strategy", "save_steps")}
    return kept


def _without(tree: Mapping[str, object], keys: Sequence[str]) -> dict[str, object]:
    """Return `tree` less the leaf that `keys` lead to; a number leads to an entry of a list."""
    first, *rest = keys
    if not rest:
        return {key: value for key, value in tree.items() if key != first}
    branch = tree.get(first)
    if isinstance(branch, Mapping):
        return {**tree, first: _without(branch, rest)}
    if isinstance(branch, list):
        entries = _without({str(place): entry for place, entry in enumerate(branch)}, rest)
        return {**tree, first: list(entries.values())}
    return dict(tree)


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _canonical(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
