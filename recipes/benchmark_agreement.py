"""How far the two sides of `recipes.benchmark engine` are apart: log-probabilities and gradients of the first batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from preftune.training.trainer import PairTrainer


def labelled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a forward pass with a fused head takes of a collated batch."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def agreement(ours: PairTrainer, stock: Any, in_float64: Callable[[], PairTrainer] | None) -> dict[str, Any]:
    """Return the largest differences.

    Args:
        ours: Before its first step.
        stock: TRL's trainer before its first step, of the same weights.
        in_float64: Builds ours on the same weights in float64; None leaves that comparison out.

    Returns:
        `logps`, in nats over a completion; `gradients`, the norm of the difference as a share of the norm, of the first
        step's loss; `float64_logps` and `float64_gradients`, both relative, against the model's own logits.
    """
    batch = ours.first_batch()
    ours.model.train()
    stock.model.train()
    with torch.no_grad(), ours.accelerator.autocast():
        theirs = stock.model(**labelled(batch), use_cache=False, fused_lm_head=True).log_probs
    with torch.no_grad():
        mine = ours.engine.forward(ours.model, (), metrics=False)(**labelled(batch)).log_probs
    found = {"logps": (mine.double().sum(dim=1) - theirs.double().sum(dim=1)).abs().max().item()}
    without_rows = {name: each for name, each in batch.items() if name != "row"}
    with ours.accelerator.autocast():
        losses = ours.compute_loss(ours.model, batch), stock.compute_loss(stock.model, without_rows)
    for loss in losses:
        loss.backward()
    found["gradients"] = _apart(_gradients(ours.model), _gradients(stock.model))
    return found | (_in_float64(in_float64()) if in_float64 is not None else {})


def _in_float64(ours: PairTrainer) -> dict[str, float]:
    _widen_norms(ours.model)
    batch = ours.first_batch()
    drawn = torch.Generator().manual_seed(0)
    for parameter in ours.model.parameters():
        if parameter.requires_grad:  # off the start, where half of an adapter has no gradient
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype)
    weights = torch.randn(len(batch["input_ids"]), generator=drawn, dtype=torch.float64)
    mine = ours.engine.forward(ours.model, (), metrics=False)(**labelled(batch)).log_probs.sum(dim=1)
    _backward(weights * mine)
    got = _gradients(ours.model)
    ours.model.zero_grad()
    right = _own_logps(ours.model, batch)
    _backward(weights * right)
    return {
        "float64_logps": ((mine - right).abs() / right.abs()).max().item(),
        "float64_gradients": _apart(got, _gradients(ours.model)),
    }


def _backward(costs: Tensor) -> None:
    costs.sum().backward()  # type: ignore[no-untyped-call]


def _widen_norms(model: nn.Module) -> None:
    """Let norms of Llama's kind compute in float64, where transformers computes them in float32 whatever the type."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            wide = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon, dtype=torch.float64)
            wide.weight = module.weight
            model.set_submodule(name, wide)


def _own_logps(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each completion, of shape `(2 B,)`, from each sequence alone."""
    found = []
    for ids, attention, completion in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        length = int(attention.sum())
        logits = model(input_ids=ids[None, :length], use_cache=False).logits[0, :-1]
        logps = logits.log_softmax(dim=1).gather(1, ids[1:length, None])[:, 0]
        found.append((logps * completion[1:length]).sum())
    return torch.stack(found)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}


def _apart(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two gradients as a share of the norm of the expected one."""
    difference = [got[name] - each for name, each in expected.items()]
    norm = torch.nn.utils.get_total_norm(list(expected.values()))
    return (torch.nn.utils.get_total_norm(difference) / norm).item()
