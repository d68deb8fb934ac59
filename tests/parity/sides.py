"""Loss and gradient of every cell by TRL, by ours and from scratch, from few forward passes.

A forward pass gives log-probabilities of tokens, and J, their gradients to all trained parameters. Each cell gives its
loss and its slopes to those log-probabilities; by the chain rule its gradient to the parameters is slopes times J.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from trl import DPOTrainer

from preftune.losses import scratch
from preftune.losses.logps import PairLogps
from preftune.losses.objective import Objective, PairLoss
from preftune.training import scratch_side as from_scratch_side
from preftune.training.objectives import build_objective
from preftune.training.scoring import Replay
from preftune.training.scratch_side import PairSide
from preftune.training.trainer import PairTrainer
from tests.parity.cells import Cell
from tests.parity.trainers import set_to

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Side:
    """What one way of computing gives for C cells, on N completion tokens and P trained parameters.

    Attributes:
        losses: Mean loss over the micro-batches, of shape (C,).
        slopes: Its gradient to each completion token's log-probability, of shape (C, N).
        jacobian: The gradient of each such log-probability to the parameters, of shape (N, P).
    """

    losses: Tensor
    slopes: Tensor
    jacobian: Tensor

    def gradients(self) -> Tensor:
        """Return the gradient of each loss to the parameters, of shape (C, P)."""
        return self.slopes.double() @ self.jacobian.double()


def side(found: Iterable[tuple[Sequence[tuple[float, Tensor]], Tensor]]) -> Side:
    """Return the mean over micro-batches, of each of which `found` holds the cells' losses and slopes, and J."""
    parts = list(found)
    losses = torch.tensor([[loss for loss, _ in cells] for cells, _ in parts], dtype=torch.float64).mean(dim=0)
    slopes = [torch.stack([slope for _, slope in cells]) / len(parts) for cells, _ in parts]
    return Side(losses, torch.cat(slopes, dim=1), torch.cat([jacobian for _, jacobian in parts]))


def jacobian(log_probs: Tensor, model: nn.Module) -> Tensor:
    """Return the gradient of each of N log-probabilities to what trains, of shape (N, P)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for log_prob in log_probs:
        found = torch.autograd.grad(log_prob, trained, retain_graph=True, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([each.flatten() for each in found]))
    return torch.stack(rows)


def forward(model: nn.Module, batch: Batch) -> Any:
    """Return what the fused head of TRL gives for a batch."""
    return model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100),
        use_cache=False,
        fused_lm_head=True,
    )


def completion(batch: Batch) -> Tensor:
    """Return where the completion tokens are among the fused head's values, of shape (2 B, T - 1)."""
    return batch["completion_mask"][:, 1:].bool()


def at_leaf(outputs: Any) -> Any:
    """Return the same outputs with log-probabilities that gradients stop at."""
    cut = copy.copy(outputs)
    cut.log_probs = outputs.log_probs.detach().clone().requires_grad_()
    return cut


def of_trl(trainer: DPOTrainer, outputs: Any, batch: Batch, cells: Iterable[Cell]) -> list[tuple[float, Tensor]]:
    """Return loss and slopes of the cells by TRL's own `compute_loss`, its policy's forward pass being done."""
    found = []
    with _one_pass_of(trainer.ref_model or trainer.model):
        for cell in cells:
            cut = at_leaf(outputs)
            with set_to(trainer, cell.of_trl()):
                loss = trainer.compute_loss(Replay(cut), batch)
            (slopes,) = torch.autograd.grad(loss, cut.log_probs)
            found.append((loss.item(), slopes[completion(batch)]))
    return found


@contextmanager
def _one_pass_of(model: nn.Module) -> Iterator[None]:
    """Let a live reference do the forward pass of a batch once, and give the same outputs to the cells that follow."""
    forward, passed = model.forward, []

    def once(*given: Any, **inputs: Any) -> Any:
        if not passed:
            passed.append(forward(*given, **inputs))
        return passed[0]

    own = vars(model).get("forward")
    model.forward = once
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def of_ours(
    record: PairLogps, log_probs: Tensor, batch: Batch, costs: Iterable[PairLoss]
) -> list[tuple[float, Tensor]]:
    """Return the same by costs of ours, of a record that was made of `log_probs`."""
    found = []
    for cost in costs:
        loss = cost(record).mean()
        (slopes,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
        found.append((loss.item(), slopes[completion(batch)]))
    return found


def from_scratch(record: PairLogps, objectives: Iterable[Objective]) -> list[tuple[float, Tensor]]:
    """Return the same by the independent losses, of the record of the from-scratch side."""
    lengths = torch.cat(record.lengths())
    found = []
    for objective in objectives:
        slopes = from_scratch_side._slopes(objective.from_scratch, record)
        flat = torch.cat([slope[:length] for (slope, _), length in zip(slopes, lengths, strict=True)])
        found.append((objective.from_scratch(record).mean().item(), flat))
    return found


def our_record(trainer: PairTrainer, batch: Batch) -> tuple[PairLogps, Tensor]:
    """Return the record of a batch as a run of ours makes it, and the log-probabilities of tokens behind it."""
    rows = {"row": torch.arange(len(batch["input_ids"]) // 2)}
    policy, reference, rest = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    inputs = {"input_ids": policy, "attention_mask": reference, "completion_mask": rest, **rows}
    record, passes = trainer._score(trainer.model, inputs, "train")
    return replace(record, extras={}), passes[0].outputs.log_probs


def scratch_side(trainer: PairTrainer, batch: Batch) -> PairSide:
    """Return the from-scratch side of a batch on our trainer's models."""
    return PairSide(trainer.policy_logits, trainer.reference_logits, batch, kl=False)


def scratch_jacobian(alone: PairSide, model: nn.Module) -> Tensor:
    """Return J of sequences that go through the model one by one and without padding."""
    rows = []
    for ids, answer in from_scratch_side.alone(alone.batch):
        rows.append(jacobian(scratch.token_logps(alone.policy(ids)[0], ids[0], answer[0]), model))
    return torch.cat(rows)


def objectives_of(cells: Iterable[Cell]) -> list[Objective]:
    """Return what a run of ours minimises, for each cell."""
    return [build_objective(cell.of_ours()) for cell in cells]
