"""What a reference, and a pair under it, are known by: all that changes their log-probabilities, and nothing else."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from huggingface_hub import try_to_load_from_cache

from preftune.caches import key_of
from preftune.data.contents import files_hash
from preftune.data.store import Numbers
from preftune.models.settings import ModelSettings
from preftune.models.source import ModelSource
from preftune.refusals import Refusal

DIGEST = 16
"""Bytes of a pair's digest; two of a million different pairs share one with a probability of 1e-27."""

_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]
_AT_ONCE = 10_000  # rows that are digested at once
_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*")
_ADAPTER = ("adapter_config.json", "adapter_model*")


def reference_key(
    model: ModelSettings,
    source: ModelSource,
    adapter: Path | None,
    *,
    computed_in: str | None = None,
    adapter_dtype: str | None = None,
) -> str:
    """Return the name of all that changes the reference's log-probabilities of a pair, and of nothing else.

    A copy of a model in another directory has the same key. What is on the hub is known by its commit, so call this
    once the weights are loaded.

    Args:
        model: Gives the base's quantisation and type; the rest of it does not count.
        source: Where the base weights come from.
        adapter: The reference's adapter, a directory; None where the base is the reference.
        computed_in: Type of the forward pass where it is not `model.dtype`: that of autocast, or float64.
        adapter_dtype: Type of the reference adapter's weights where that is not the type in its files.

    Raises:
        Refusal: A directory holds no weights, or the hub's cache does not know the commit.
    """
    return key_of(
        _base(source),
        model.quantization,
        model.dtype,
        computed_in or model.dtype,
        adapter and _contents(adapter.expanduser(), _ADAPTER),
        adapter and adapter_dtype,
    )


def _base(source: ModelSource) -> list[str]:
    if source.is_local or Path(source.location).is_dir():
        return [_contents(Path(source.location), _WEIGHTS)]
    config = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    if not isinstance(config, str):
        raise Refusal(
            f"{source.location} must lie in the hub's cache at revision {source.revision} once its weights are "
            "loaded, got no config.json there; set model.path to a local copy"
        )
    return [source.location, Path(config).parent.name]  # the hub's cache names a snapshot after its commit


def _contents(directory: Path, patterns: tuple[str, ...]) -> str:
    files = {file.name: file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    if len(files) < 2:
        raise Refusal(f"{directory} must hold {patterns[0]} and weights, got {', '.join(files) or 'neither'}")
    return files_hash(files)


def pair_digest(prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> bytes:
    """Return the 16 bytes that a pair is known by: a digest of its three lengths and its ids."""
    parts = [np.asarray(ids, "<i4") for ids in (prompt_ids, chosen_ids, rejected_ids)]
    lengths = np.asarray([len(ids) for ids in parts], "<i4")
    return hashlib.sha256(b"".join(part.tobytes() for part in (lengths, *parts))).digest()[:DIGEST]


def row_digests(rows: datasets.Dataset) -> Numbers:
    """Return `pair_digest` of each of `rows`, of shape `(rows, 16)` and type uint8, in their order."""
    found = bytearray()
    for batch in rows.select_columns(_COLUMNS).with_format("arrow").iter(_AT_ONCE):
        columns = [_flat(batch.column(name)) for name in _COLUMNS]
        lengths = np.stack([np.diff(ends) for _, ends in columns], axis=1).astype("<i4")
        parts = [part.view(np.uint8).data for part in (lengths.ravel(), *(ids for ids, _ in columns))]
        ends = [np.arange(0, lengths.nbytes + 1, lengths[0].nbytes), *(4 * ends for _, ends in columns)]
        for bounds in zip(*(itertools.pairwise(of_part.tolist()) for of_part in ends), strict=True):
            digest = hashlib.sha256()
            for part, (start, end) in zip(parts, bounds, strict=True):
                digest.update(part[start:end])
            found += digest.digest()[:DIGEST]
    return np.frombuffer(found, np.uint8).reshape(-1, DIGEST)


def _flat(column: pa.ChunkedArray) -> tuple[Numbers, Numbers]:
    """Return all ids of a column, and where those of each row begin, with the end of the last."""
    lists = pa.concat_arrays(column.cast(pa.list_(pa.int32())).chunks)
    return lists.values.to_numpy().astype("<i4", copy=False), lists.offsets.to_numpy().astype(np.int64)
