"""The whole grid: each side of every cell computed once, and how two of them are held against each other."""

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from trl import DPOTrainer

from preftune.losses.logps import PairLogps
from preftune.losses.objective import PairLoss
from preftune.training.scoring import Replay, Scored, pair_logps
from preftune.training.trainer import PairTrainer
from tests.parity import sides
from tests.parity.cells import CELLS, LD_ALPHAS, Cell
from tests.parity.sides import Batch, Side
from tests.parity.trainers import PARTS, our_trainer, part, stock_trainer

# Those that TRL computes in float64 where it is given log-probabilities in it: its alpha_divergence has no entry for
# the type, and its exo_pair takes logarithms of the smoothing in float32. See test_differences.
# A record whose pairs carry no numbers.
NOTHING = PairLogps(*(torch.zeros(0) for _ in range(4)))
WIDE = [cell for cell in CELLS if "f_alpha_divergence_coef" not in cell.divergence and "exo_pair" not in cell.weights]


class Grid:
    """The sides in float32, by kind of weights, way to the reference, and gradient accumulation."""

    cells = CELLS

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objectives = sides.objectives_of(self.cells)
        self.of_trl = cache(self._of_trl)
        self.of_ours = cache(self._of_ours)
        self.of_scratch_losses = cache(self._of_scratch_losses)
        self.from_scratch = cache(self._from_scratch)
        self.stock = cache(self._stock)
        self.ours = cache(lambda kind: our_trainer(path, kind))
        self._passed = cache(self._forward)
        self._scratch_jacobian = cache(self._jacobian_from_scratch)

    def batches(self, kind: str, accumulation: int) -> Iterator[Batch]:
        """Yield the micro-batches."""
        for places in PARTS[accumulation]:
            yield part(self.stock(kind), places)

    def _stock(self, kind: str, ld_alpha: float | None = None, *, precomputed: bool = False) -> DPOTrainer:
        return stock_trainer(self.path, kind, precomputed=precomputed, use_weighting=True, ld_alpha=ld_alpha)

    def _forward(self, kind: str, accumulation: int, place: int) -> tuple[Any, Tensor]:
        """Return the stock policy's forward pass on a micro-batch, and J."""
        trainer = self.stock(kind)
        batch = part(trainer, PARTS[accumulation][place])
        outputs = sides.forward(trainer.model, batch)
        return outputs, sides.jacobian(outputs.log_probs[sides.completion(batch)], trainer.model)

    def _of_trl(self, kind: str, precomputed: bool, accumulation: int) -> Side:
        """A precomputed reference is that of a trainer built with the cell's own `ld_alpha`."""
        parts = []
        for place, places in enumerate(PARTS[accumulation]):
            outputs, jacobian = self._passed(kind, accumulation, place)
            if precomputed:
                own = {ld_alpha: self.stock(kind, ld_alpha, precomputed=True) for ld_alpha in LD_ALPHAS}
                rows = {ld_alpha: part(trainer, places) for ld_alpha, trainer in own.items()}
                each = (sides.of_trl(own[c.ld_alpha], outputs, rows[c.ld_alpha], [c]) for c in self.cells)
                found = [cell for cells in each for cell in cells]
            else:
                found = sides.of_trl(self.stock(kind), outputs, part(self.stock(kind), places), self.cells)
            parts.append((found, jacobian))
        return sides.side(parts)

    def _of_ours(self, kind: str, accumulation: int) -> Side:
        return self._on_our_pass(kind, accumulation, self.objectives)

    def _of_scratch_losses(self, kind: str, accumulation: int) -> Side:
        """Return the from-scratch losses on the log-probabilities that train."""
        return self._on_our_pass(kind, accumulation, [objective.from_scratch for objective in self.objectives])

    def _on_our_pass(self, kind: str, accumulation: int, costs: Sequence[PairLoss]) -> Side:
        trainer = self.ours(kind)
        parts = []
        for batch in self.batches(kind, accumulation):
            record, log_probs = sides.our_record(trainer, batch)
            found = sides.of_ours(record, log_probs, batch, costs)
            parts.append((found, sides.jacobian(log_probs[sides.completion(batch)], trainer.model)))
        return sides.side(parts)

    def _from_scratch(self, kind: str, accumulation: int) -> Side:
        alone = [sides.scratch_side(self.ours(kind), batch) for batch in self.batches(kind, accumulation)]
        losses = [sides.from_scratch(each.logps(NOTHING), self.objectives) for each in alone]
        return sides.side(
            (each, self._scratch_jacobian(kind, accumulation, place)) for place, each in enumerate(losses)
        )

    def _jacobian_from_scratch(self, kind: str, accumulation: int, place: int) -> Tensor:
        trainer = self.ours(kind)
        batch = part(self.stock(kind), PARTS[accumulation][place])
        return sides.scratch_jacobian(sides.scratch_side(trainer, batch), trainer.model)


class WideGrid(Grid):
    """The sides in float64.

    TRL's fused head computes in float32 whatever the model does. So log-probabilities come from the logits of a model
    in float64, and TRL's own `compute_ref_log_probs` and `compute_loss` get them as the outputs of a forward pass that
    is done; the reference travels in the batch, as a precomputed one does.
    """

    cells = WIDE

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ours = cache(lambda kind: in_float64(our_trainer(path, kind)))
        self._both = cache(self._both_passes)

    def _both_passes(self, kind: str, accumulation: int, place: int) -> tuple[Any, Any, Tensor]:
        """Return the outputs of policy and reference on a micro-batch, and J."""
        trainer, stock = self.ours(kind), self.stock(kind)
        batch = part(stock, PARTS[accumulation][place])
        policy = wide_outputs(trainer.model, batch)
        with torch.no_grad(), trainer.acting_as_reference() as model:
            reference = wide_outputs(model, batch)
        return policy, reference, sides.jacobian(policy.log_probs[sides.completion(batch)], trainer.model)

    def _of_trl(self, kind: str, precomputed: bool, accumulation: int) -> Side:
        stock = self.stock(kind)
        stock.precompute_ref_logps = True
        parts = []
        for place, batch in enumerate(self.batches(kind, accumulation)):
            policy, reference, jacobian = self._both(kind, accumulation, place)
            found = []
            for cell in self.cells:
                stock.ld_alpha = cell.ld_alpha
                chosen, rejected = stock.compute_ref_log_probs(Replay(reference), batch)
                columns = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
                found += sides.of_trl(stock, policy, batch | columns, [cell])
            parts.append((found, jacobian))
        return sides.side(parts)

    def _of_ours(self, kind: str, accumulation: int) -> Side:
        parts = []
        for place, batch in enumerate(self.batches(kind, accumulation)):
            policy, reference, jacobian = self._both(kind, accumulation, place)
            cut = sides.at_leaf(policy)
            record = self._record(kind, cut, reference, batch)
            parts.append((sides.of_ours(record, cut.log_probs, batch, self.objectives), jacobian))
        return sides.side(parts)

    def _record(self, kind: str, policy: Any, reference: Any, batch: Batch) -> PairLogps:
        trainer = self.ours(kind)
        passes = Scored(policy, None), Scored(reference, None)
        heads = trainer.policy_logps, trainer.reference_logps
        return pair_logps(*passes, batch["completion_mask"], {}, trainer.objective.traits, heads)


def in_float64(trainer: PairTrainer) -> PairTrainer:
    """Return the trainer with its models in float64; a 4-bit layer, which cannot compute in it, is read out once."""
    for module in trainer.model.modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            module.__class__ = nn.Linear
            module.weight = nn.Parameter(weight, requires_grad=False)
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            model.double()
    return trainer


def wide_outputs(model: nn.Module, batch: Batch) -> Any:
    """Return what the fused head gives, its log-probabilities and collisions in float64 from the model's logits."""
    with torch.no_grad():
        outputs = copy.copy(sides.forward(model, batch))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    outside = ~sides.completion(batch)
    taken = log_probs.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    outputs.log_probs = taken.masked_fill(outside, 0)
    outputs.log_sum_sq_probs = (2 * log_probs.detach()).logsumexp(dim=-1).masked_fill(outside, 0)
    return outputs


def apart(one: Side, other: Side, cells: list[Cell], *, least: float) -> dict[str, tuple[float, str]]:
    """Return by how much two sides differ at most, in loss and in gradient, each with the cell where they do.

    A loss counts in nats, as a share of it where it is above 1. A gradient is that of all trained parameters, and
    counts as a share of its largest entry, or of `least` where that is larger.
    """
    losses = (one.losses - other.losses).abs() / other.losses.abs().clamp(min=1)
    expected = other.gradients()
    gradients = (one.gradients() - expected).abs().amax(dim=1) / expected.abs().amax(dim=1).clamp(min=least)
    found = {}
    for name, differences in (("loss", losses), ("gradient", gradients)):
        place = int(differences.nan_to_num(nan=torch.inf).argmax())
        found[name] = (differences[place].item(), str(cells[place]))
    return found
