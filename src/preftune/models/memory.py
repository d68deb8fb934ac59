"""How many bytes a training takes, by part, and how many the device has.

1. What stands through the whole run is counted where it lies: weights, adapter, gradients, optimizer state.
2. What a decoder layer keeps for its backward pass is measured, on one layer and a few real lengths, and multiplied.
3. Logits and the first batch's check follow from the vocabulary.

The layer is measured because what it keeps depends on more than its sizes: attention's kernel and mask, casts between
adapter and base, dropout, DoRA's norms. One layer at two lengths costs less than a training step.
"""

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Bytes of a run at its highest.

    Attributes:
        standing: What is there all the time, by name.
        step: What a forward and backward pass add, by name.
        check: What the comparison with the from-scratch reference adds; it comes after the pass, and not on top of it.
    """

    standing: Mapping[str, int]
    step: Mapping[str, int]
    check: int = 0

    @property
    def total(self) -> int:
        """Bytes at the highest point."""
        return sum(self.standing.values()) + max(sum(self.step.values()), self.check)

    def parts(self) -> dict[str, int]:
        """Return all parts by name; of pass and check the larger one."""
        larger = self.step if sum(self.step.values()) >= self.check else {"first check": self.check}
        return {name: size for name, size in (*self.standing.items(), *larger.items()) if size}


@dataclass(frozen=True)
class Layers:
    """What the decoder layers of a model take for a micro-batch, in bytes.

    Attributes:
        count: Layers.
        entry: What enters a layer: its hidden states.
        kept: What a layer keeps for its backward pass.
        peak: What one layer's forward and backward pass hold at their highest, with what it keeps.
        shared: What all layers read: masks and positions.
    """

    count: int
    entry: int
    kept: int
    peak: int
    shared: int

    def activations(self, *, checkpointing: bool, head: int = 0) -> int:
        r"""Return the bytes at the highest point of the backward pass, beyond what the head takes.

        .. math:: s + L k + 2 e + \max(0, p - k - h) \quad\text{or, checkpointed,}\quad s + L e + 2 e + \max(0, p - h)

        for :math:`L` layers that each keep :math:`k`, have the peak :math:`p` and the entry :math:`e`, and share
        :math:`s`. A checkpointed layer keeps its entry, and is computed once more on the way back, one at a time.
        Two more entries are the final norm's input and output. The head's :math:`h` is gone before the last layer goes
        back, so that of the two the larger one counts.
        """
        kept = self.entry if checkpointing else self.kept
        back = self.peak if checkpointing else self.peak - self.kept
        return self.shared + self.count * kept + 2 * self.entry + max(0, back - head)

    def scaled(self, more: "Layers", units: float) -> "Layers":
        """Return the bytes for `units` units, where this is for one and `more` for two: each grows by a line."""

        def at(one: int, two: int) -> int:
            return round(one + (two - one) * (units - 1))

        return Layers(
            self.count,
            at(self.entry, more.entry),
            at(self.kept, more.kept),
            at(self.peak, more.peak),
            at(self.shared, more.shared),
        )


@dataclass(frozen=True)
class Standing:
    """What a policy holds through a run, in bytes; `parts` names it."""

    frozen: int
    trained: int
    trained_parameters: int

    def parts(self, optim: str, *, reference: bool, adapter: bool) -> dict[str, int]:
        """Return the parts by name.

        Args:
            optim: The optimizer, by transformers' name.
            reference: Whether a second copy of the weights is the reference, as where there is no adapter.
            adapter: Whether what trains is an adapter.
        """
        weights = self.frozen + (0 if adapter else self.trained)
        return {
            "weights": weights,
            "reference": weights if reference else 0,
            "adapter": self.trained if adapter else 0,
            "gradients": self.trained,
            "optimizer": round(self.trained_parameters * optimizer_bytes(optim, self.width)),
        }

    @property
    def width(self) -> float:
        """Bytes of a trained parameter, on average."""
        return self.trained / max(1, self.trained_parameters)


def standing(policy: nn.Module) -> Standing:
    """Count the bytes of `policy` as it is loaded; a weight that two modules share counts once.

    A 4-bit weight is counted with the scales of its blocks: half a byte, and 0.516 bytes a parameter with them, as
    double quantisation keeps one byte for 64 parameters and four for 256 of those.
    """
    frozen = trained = parameters = 0
    for parameter in policy.parameters():
        size = parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            trained += size
            parameters += parameter.numel()
        else:
            frozen += size + sum(t.numel() * t.element_size() for t in _scales(parameter))
    frozen += sum(buffer.numel() * buffer.element_size() for buffer in policy.buffers())
    return Standing(frozen, trained, parameters)


def _scales(parameter: Any) -> Iterator[Tensor]:
    """Yield what bitsandbytes keeps beside a quantised weight."""
    for state in (getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)):
        if isinstance(state, Tensor):
            yield state
        while state is not None and not isinstance(state, Tensor):
            yield from (each for each in (state.absmax, state.code, state.offset) if isinstance(each, Tensor))
            state = state.state2


_NO_STATE = ("sgd", "adafactor", "lomo", "adalomo")  # a row and a column of a matrix at most
_ONE_STATE = ("lion", "paged_lion", "adagrad", "rmsprop")


def optimizer_bytes(optim: str, width: float) -> float:
    """Return the bytes that an optimizer keeps for each trained parameter.

    Adam's kind keeps two numbers, Lion's one, plain descent none; each as wide as the parameter, or of 8 or 4 bits,
    or of 32, where the name says so.

    Args:
        optim: By transformers' name.
        width: Bytes of a parameter.

    Example:
        >>> optimizer_bytes("adamw_torch", 4), optimizer_bytes("paged_adamw_8bit", 4), optimizer_bytes("sgd", 4)
        (8, 2, 0)
    """
    states = 0 if optim.startswith(_NO_STATE) else 1 if optim.startswith(_ONE_STATE) else 2
    widths = {"8bit": 1, "4bit": 0.5, "32bit": 4}
    return states * next((size for word, size in widths.items() if word in optim), width)


def capacity(device: torch.device) -> int:
    """Return how many bytes this process can have on `device`: what is free, and what it has already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    free = _status("/proc/meminfo", "MemAvailable")
    for limit, used in _GROUP_LIMITS:
        if limit.is_file() and (most := limit.read_text().strip()).isdigit():
            free = min(free, max(0, int(most) - int(used.read_text())))
    return free + resident()


_GROUP_LIMITS = [
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
]


def resident() -> int:
    """Return the bytes of memory that this process has now; 0 where the system does not say."""
    return _status("/proc/self/status", "VmRSS")


def peak_memory_bytes() -> int:
    """Return the most memory that this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(path: str, name: str) -> int:
    if not Path(path).is_file():
        return 0
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return next((1024 * int(line[1]) for line in lines if line[0] == f"{name}:"), 0)
