"""What a run will take of the device's memory, and whether activations are kept or computed again."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from preftune.engine.head import CHUNK
from preftune.engine.shared import Kind, SharedPass, causal_model, prepare_attention
from preftune.engine.support import unsupported
from preftune.models.layers import decoder_layers, measure_layer
from preftune.models.memory import GIB, Estimate, Layers, Standing, capacity, standing
from preftune.training.longest import Longest, longest
from preftune.training.preparation import Prepared
from preftune.training.settings import TrainSettings

_PROBED = 2048  # most tokens of a sequence on which a layer is measured; what is longer is taken to grow by a line
_ROOM = 0.9  # share of what the device has that a run may be estimated to take: estimates err, and memory splinters


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes, what there is, and what follows from it.

    Attributes:
        estimate: Bytes by part, with activations as decided.
        capacity: Bytes that this process can have.
        longest: The micro-batch that takes the most.
        shared: Whether the estimate is for the shared engine.
        checkpointing: Whether activations are computed again on the way back.
        reason: Why, where `auto` decided; None where a person did.
    """

    estimate: Estimate
    capacity: int
    longest: Longest
    shared: bool
    checkpointing: bool
    reason: str | None

    def settle(self, train: TrainSettings) -> TrainSettings:
        """Return `train` with `gradient_checkpointing` as decided; its keyword arguments go with it."""
        keys = {**train.dpo, "gradient_checkpointing": self.checkpointing}
        if not self.checkpointing:
            keys.pop("gradient_checkpointing_kwargs", None)
        return train.model_copy(update={"dpo": keys})


def plan_memory(
    prepared: Prepared, train: TrainSettings, engine: str = "trl", verify: str = "first_batch"
) -> MemoryPlan:
    """Estimate a run's memory, and decide `train.gradient_checkpointing` where it is `auto`.

    Args:
        prepared: Pairs or answers, and the policy where it will train.
        train: Batches, precision, optimizer, checkpointing.
        engine: `trl`, `shared`, or `auto`, which is taken for the shared one where nothing is known against it.
        verify: Whether the first batch is compared with the from-scratch reference.
    """
    policy = prepared.policy
    shared = not prepared.answers and engine != "trl" and _takes_shared(policy, train)
    batch = longest(prepared, train, shared=shared)
    layers = _measure(policy, train, batch, shared=shared)
    parts = standing(policy)
    process = prepared.resident_before if policy.device.type == "cpu" else 0
    has = capacity(policy.device)

    def estimate(checkpointing: bool) -> Estimate:
        return _estimate(policy, train, batch, (parts, process), layers, shared, verify != "off", checkpointing)

    asked = train.dpo.get("gradient_checkpointing", True)
    reason = None
    if asked == "auto":
        asked, reason = _decide(estimate, has, can=bool(decoder_layers(policy)))
    return MemoryPlan(estimate(asked), has, batch, shared, asked, reason)


def _takes_shared(policy: nn.Module, train: TrainSettings) -> bool:
    return not train.dpo.get("torch_compile") and unsupported(policy, train.max_length) is None


def _decide(estimate: Callable[[bool], Estimate], has: int, *, can: bool) -> tuple[bool, str]:
    kept, again = estimate(False).total, estimate(True).total
    room = int(_ROOM * has)
    if not can:
        return False, "the model has no layers that can be computed again"
    if kept <= room:
        return False, f"all activations fit: {kept / GIB:.1f} of {has / GIB:.1f} GiB"
    if again <= room:
        return True, f"keeping all activations would take {kept / GIB:.1f} of {has / GIB:.1f} GiB"
    return True, f"even so the run may not fit: {again / GIB:.1f} of {has / GIB:.1f} GiB"


def _estimate(
    policy: Any,
    train: TrainSettings,
    batch: Longest,
    counted: tuple[Standing, int],
    layers: tuple[Layers, Layers] | None,
    shared: bool,
    checked: bool,
    checkpointing: bool,
) -> Estimate:
    parts, process = counted
    adapter = isinstance(policy, PeftModel)
    held = parts.parts(train.dpo.get("optim", "adamw_torch"), reference=not adapter, adapter=adapter)
    hidden, head = _logits(policy, train, batch, shared)
    activations = alone = 0
    if layers is not None:
        units = batch.tokens(shared=shared) / _unit_tokens(batch, shared)
        activations = layers[0].scaled(layers[1], units).activations(checkpointing=checkpointing, head=head)
        alone = layers[0].activations(checkpointing=checkpointing)
    _, vocabulary, item = _head(policy, train)
    answer = int(batch.answers.max())
    return Estimate(
        {"process": process, **held},
        {"activations": activations, "logits": hidden + head},
        # from scratch: logits of one sequence and of the one before, and four numbers of float64 for each of an
        # answer's: log-probabilities by two ways, their exponentials, and the logits once more
        check=alone + vocabulary * (2 * batch.width * item + 32 * answer) if checked else 0,
    )


def _unit_tokens(batch: Longest, shared: bool) -> float:
    if shared:
        return float(batch.prompt.mean() + batch.answers.mean(axis=0).sum())
    return float(batch.width * batch.answers.shape[1])


def _head(policy: Any, train: TrainSettings) -> tuple[int, int, int]:
    """Return the width of the hidden states, the vocabulary, and the bytes of a number in them."""
    config = causal_model(policy).config.get_text_config()
    half = train.dpo.get("bf16") or train.dpo.get("fp16")
    return config.hidden_size, config.vocab_size, 2 if half else policy.dtype.itemsize


def _logits(policy: Any, train: TrainSettings, batch: Longest, shared: bool) -> tuple[int, int]:
    """Return the bytes of the hidden states that are scored with their gradient, and of the logits at their highest.

    The shared engine holds three buffers of a chunk in float32: logits, probabilities, and one within an operation;
    five where the head trains, as autograd follows it. TRL's fused head holds a tile of 4096 tokens by 32768 entries of
    the vocabulary, where it has Triton. Without, it scores the prompt, too, and holds eight such tiles and a mask on
    the way back, of which it touches as many entries as the vocabulary has.
    """
    width, vocabulary, item = _head(policy, train)
    scored, device = int(batch.answers.sum()), policy.device.type
    if shared:
        trains = any(p.requires_grad for p in causal_model(policy).get_output_embeddings().parameters())
        return 2 * scored * width * item, (5 if trains else 3) * min(CHUNK[device], 4 * scored * vocabulary)
    if device == "cuda":
        return scored * width * (item + 4), item * min(scored, 4096) * 32768
    rows = batch.tokens(shared=False)
    return rows * width * (item + 4), 33 * min(rows, 4096) * min(vocabulary, 32768)


def _measure(policy: Any, train: TrainSettings, batch: Longest, *, shared: bool) -> tuple[Layers, Layers] | None:
    """Return what layers take for one pair of mean length, or one answer, and for two; None where none is known."""
    if not decoder_layers(policy):
        return None
    scale = min(1.0, _PROBED / batch.width)
    attention = causal_model(policy).config._attn_implementation
    was_training = policy.training
    # dropout keeps masks; trl switches it off after this, unless it is told not to
    policy.train(not train.dpo.get("disable_dropout", True))
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), _autocast(policy, train):
            one, two = (_layer(policy, batch.alike(count, scale), shared=shared) for count in (1, 2))
    finally:
        policy.train(was_training)
        causal_model(policy).set_attn_implementation(attention)
    return _stretched(one, 1 / scale), _stretched(two, 1 / scale)


def _stretched(layers: Layers, by: float) -> Layers:
    sizes = (layers.entry, layers.kept, layers.peak, layers.shared)
    return Layers(layers.count, *(round(by * size) for size in sizes))


def _autocast(policy: Any, train: TrainSettings) -> AbstractContextManager[Any]:
    half = torch.bfloat16 if train.dpo.get("bf16") else torch.float16
    return torch.autocast(policy.device.type, dtype=half, enabled=bool(train.dpo.get("bf16") or train.dpo.get("fp16")))


def _layer(policy: Any, batch: dict[str, torch.Tensor], *, shared: bool) -> Layers:
    ids, attended, answers = (
        batch[key].to(policy.device) for key in ("input_ids", "attention_mask", "completion_mask")
    )
    if not shared:
        return measure_layer(
            policy, lambda: policy(input_ids=ids, attention_mask=attended, use_cache=False, logits_to_keep=1)
        )
    # where FlexAttention runs, it keeps no more than this
    kind: Kind = "mask" if prepare_attention(policy) == "mask" else "blocks"
    labels = ids.masked_fill(answers == 0, -100)
    return measure_layer(policy, lambda: SharedPass(policy, kind)(ids, attended, labels))
