"""Weights that are NaN or infinite: found in memory and in the files that they came from."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from preftune.models.source import ModelSource
from preftune.refusals import Refusal

_NAMED = 4  # tensors that a sentence names


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Return the names of the floating tensors with an entry that is NaN or infinite.

    Args:
        tensors: Names and tensors, all on one device.

    Returns:
        By name how many of its entries are so: `3 of 4,096 entries`.
    """
    floating = [(name, tensor.detach()) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return {}
    # smallest and largest entry: NaN goes through both, and no tensor of the size of the weights is made
    ends = torch.stack([torch.stack(torch.aminmax(tensor)).float() for _, tensor in floating])
    bad = (~ends.isfinite().all(dim=1)).tolist()
    return {name: _count(tensor) for (name, tensor), is_bad in zip(floating, bad, strict=True) if is_bad}


def listed(found: Iterable[str]) -> str:
    """Return the first of `found` in a row, with how many more there are."""
    names = list(found)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def refuse_bad_weights(module: nn.Module, key: str, location: str, files: Sequence[Path]) -> None:
    """Check the weights of a model or an adapter that was just loaded.

    Weights that are quantised while they are loaded are looked at in their files: a 4-bit code is always finite, and
    a GPU may leave NaN out where it takes the largest entry of a block.

    Args:
        module: What was loaded.
        key: The setting that chose it, for the message.
        location: Where it came from.
        files: The safetensors files that it came from.

    Raises:
        Refusal: A weight is NaN or infinite.
    """
    in_memory = not_finite(_held(module))
    is_quantized = any(not parameter.is_floating_point() for parameter in module.parameters())
    if not in_memory and not is_quantized:
        return
    in_files = {f"{name} in {file.name}": count for file in files for name, count in not_finite(_read(file)).items()}
    found = in_files or in_memory
    if not found:
        return
    tensors = listed(f"{name} ({count})" for name, count in found.items())
    remedy = "take another copy of it: training would spread them"
    if files and not in_files:
        remedy = "in its files they are finite, but too large for the type here: set model.dtype to float32 or bfloat16"
    count = "1 tensor" if len(found) == 1 else f"{len(found)} tensors"
    raise Refusal(
        f"{key} must name weights that are finite, got NaN or infinity in {count} of {location}: {tensors}; {remedy}"
    )


def weight_files(source: ModelSource) -> list[Path]:
    """Return the safetensors files that a model was just loaded from; none where it has others."""
    from huggingface_hub import snapshot_download

    if source.is_local:
        directory = Path(source.location)
    else:
        directory = Path(snapshot_download(source.location, revision=source.revision, local_files_only=True))
    index = directory / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file() and not (directory / "model.safetensors").is_file():
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    return [directory / name for name in sorted(names) if (directory / name).is_file()]


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters by name; of quantised ones the scales."""
    for name, parameter in module.named_parameters():
        yield name, parameter
        state = getattr(parameter, "quant_state", None)  # of a 4-bit weight
        nested = getattr(state, "state2", None)
        scales = {
            "absmax": getattr(state, "absmax", None),
            "offset": getattr(state, "offset", None),
            "nested_absmax": getattr(nested, "absmax", None),
            "SCB": getattr(parameter, "SCB", None),  # of an 8-bit weight
        }
        for scale, value in scales.items():
            if isinstance(value, Tensor):
                yield f"{name}.{scale}", value


def _read(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with safe_open(file, framework="pt", device=device) as content:
        for name in content.keys():  # noqa: SIM118 - no mapping
            yield name, content.get_tensor(name)


def _count(tensor: Tensor) -> str:
    return f"{int((~tensor.isfinite()).sum()):,} of {tensor.numel():,} entries"
