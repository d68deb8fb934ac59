"""What a decoder layer takes, measured on the layer itself: every tensor that comes to be, and when it goes."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_layers import GradientCheckpointingLayer

from preftune.models.memory import Layers


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made while it is entered, until they are gone; what was there before is not counted.

    What an operation holds within itself, such as a kernel's workspace, is not seen.

    Attributes:
        now: Bytes alive.
        peak: The most that were.
    """

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and count what came of it: an output on no storage of an input is new."""
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            key, size = storage._cdata, storage.nbytes()
            if key not in given and key not in self._alive:
                self._alive.add(key)
                self.now += size
                weakref.finalize(storage, self._gone, key, size)
        self.peak = max(self.peak, self.now)
        return made

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class _Reached(Exception):
    """The first decoder layer was reached; nothing behind it is computed."""


def decoder_layers(policy: nn.Module) -> list[nn.Module]:
    """Return the layers that can be checkpointed."""
    return [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]


def measure_layer(policy: nn.Module, forward: Callable[[], Any]) -> Layers:
    """Measure the first decoder layer on what `forward` brings to it; the others are taken to be like it.

    Args:
        policy: With one decoder layer at least.
        forward: Calls the policy on a micro-batch. It gets as far as the first layer.
    """
    layers = decoder_layers(policy)
    call: list[Any] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        call.extend((args, kwargs))
        raise _Reached

    hook = layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        forward()
    except _Reached:
        pass
    finally:
        hook.remove()
    args, kwargs = call
    hidden = (args[0] if args else kwargs.pop("hidden_states")).detach().requires_grad_()
    trained = [p for p in layers[0].parameters() if p.requires_grad]
    with torch.enable_grad(), LiveBytes() as live:
        output = layers[0](hidden, *args[1:], **kwargs)
        output = output if isinstance(output, Tensor) else output[0]
        kept = live.now  # its output, which the next layer keeps, in place of its own entry
        torch.autograd.grad(output, [hidden, *trained], torch.ones_like(output), allow_unused=True)
    shared = {storage._cdata: storage.nbytes() for storage in _storages((args[1:], kwargs))}
    return Layers(len(layers), hidden.numel() * hidden.element_size(), kept, live.peak, sum(shared.values()))


def _storages(values: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
