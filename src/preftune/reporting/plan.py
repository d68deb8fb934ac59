"""The plan that is printed before the first step: what the run is about to do, in a dozen lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from preftune.data.ledger import SplitLedger
from preftune.models.policy import count_parameters
from preftune.space import Need, bytes_of, free
from preftune.training.loss_records import PairLossRecord
from preftune.training.loss_settings import LossSettings
from preftune.training.memory import MemoryPlan
from preftune.training.preparation import Prepared
from preftune.training.steps import Steps

_REFERENCES = {
    "base": "base: the model without what is trained",
    "adapter": "adapter: the adapter as it was loaded, frozen",
}
_CHECKS = {
    "first_batch": "the first micro-batch, before the first update, against the from-scratch reference and TRL",
    "off": "off: nothing is compared",
}
_ENGINES = {
    "trl": "trl: the stock trainer's forward pass",
    "shared": "shared: each prompt once for both answers, completion tokens scored alone, no padding",
    "auto": "auto: shared, if the first pairs come out as with stock TRL; else trl",
}


def plan_lines(
    prepared: Prepared,
    loss: LossSettings,
    memory: MemoryPlan,
    space: Sequence[Need],
    reference: str,
    engine: str,
    verify: str,
) -> list[tuple[str, str]]:
    """Return the lines of the plan as name and value."""
    quantization = f", {prepared.model.quantization}" if prepared.model.quantization else ""
    kind = "answers" if prepared.labelled else "pairs"
    return [
        ("model", f"{_short(prepared.source.location)}, {prepared.model.dtype}{quantization}"),
        ("trained", count_parameters(prepared.policy).describe()),
        ("device", _device()),
        ("turns end in", f"{prepared.chat.end_of_turn}; padding is {prepared.chat.tokenizer.pad_token}"),
        *(("note", note) for note in prepared.chat.notes),
        (f"train {kind}", "streamed, as they come" if prepared.stream else account(prepared.pairs.ledger.train)),
        *(("rows read as", dialect) for dialect in sorted(set(prepared.pairs.ledger.train.dialect.values()))),
        (f"held-out {kind}", account(prepared.pairs.ledger.held_out)),
        *(("labels", labels_line(*labels, loss.parameters())) for labels in prepared.labels()),
        ("steps", steps_line(prepared.steps)),
        *loss_lines(loss),
        ("reference", _REFERENCES[reference]),
        ("engine", _ENGINES[engine]),
        ("verified", _CHECKS.get(verify, f"{_CHECKS['first_batch']}, and {verify.replace('_', ' ')} steps")),
        *memory_lines(memory),
        ("disk", space_line(space)),
    ]


def memory_lines(memory: MemoryPlan) -> list[tuple[str, str]]:
    """Return what the run is estimated to take, by part, beside what the device has, and what `auto` decided."""
    estimate, batch = memory.estimate, memory.longest
    parts = sorted(estimate.parts().items(), key=lambda part: -part[1])
    unit = "pairs" if batch.answers.shape[1] == 2 else "answers"
    decided = (
        [("checkpointing", f"{'on' if memory.checkpointing else 'off'}: {memory.reason}")] if memory.reason else []
    )
    return [
        ("memory", f"about {bytes_of(estimate.total)} of the {bytes_of(memory.capacity)} that this process can have"),
        ("of which", ", ".join(f"{name} {bytes_of(size)}" for name, size in parts)),
        (
            "longest batch",
            f"{len(batch.places)} {unit}, {batch.tokens(shared=memory.shared):,} tokens"
            f"{', prompts once' if memory.shared else ', padded'}",
        ),
        *decided,
    ]


def space_line(needs: Sequence[Need]) -> str:
    """Return what the run writes, and where that is free."""
    places = dict.fromkeys(need.place for need in needs)
    said = [", ".join(need.describe() for need in needs if need.place == place) for place in places]
    return "; ".join(f"{parts}, of {bytes_of(free(place))} free" for parts, place in zip(said, places, strict=True))


def loss_lines(loss: LossSettings) -> list[tuple[str, str]]:
    """Return the losses with their parameters, and the terms with their weights."""
    lines = []
    for name, (record, weight) in loss.weighted().items():
        values = {**({} if weight == 1 else {"weight": weight}), **record.parameters(), **record.changed()}
        lines.append(("loss", ", ".join([name, *(f"{key} {_short_value(value)}" for key, value in values.items())])))
    if not isinstance(loss, PairLossRecord):
        return lines
    if loss.use_weighting:
        lines.append(("weighted", "each pair by how likely the policy is to give both answers"))
    for name, term in loss.terms.items():
        limit = "" if term.limit is None else f" above {term.limit:g}"
        moves = f", moved by {term.rate:g} a step" if term.rate else ""
        lines.append(("term", f"{name}{limit}, weight {term.weight:g}{moves}"))
    return lines


def _short_value(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def labels_line(desirable: int, undesirable: int, parameters: Mapping[str, float]) -> str:
    """Return how many answers are to be made more likely and how many less, and what their weights make of that."""
    said = f"{desirable:,} desirable, {undesirable:,} undesirable"
    if not desirable or not undesirable:
        return f"{said}; with one label alone there is nothing to tell apart"
    heavy, light = parameters["desirable_weight"] * desirable, parameters["undesirable_weight"] * undesirable
    if light <= heavy <= 4 / 3 * light:
        return said
    return f"{said}; weighted {heavy:,g} to {light:,g}, where the paper keeps the ratio between 1 and 4/3"


def steps_line(steps: Steps) -> str:
    """Return how many steps there are, and what one holds."""
    batch = f"{steps.batch} {steps.unit} a step in {steps.accumulation} micro-batches"
    if steps.pairs is not None and steps.batch > steps.pairs:
        batch = f"all {steps.pairs} {steps.unit} a step, fewer than train.global_batch_size={steps.batch}"
    return f"{steps.steps}, of which {steps.warmup_steps} warm up; {batch}"


def account(split: SplitLedger) -> str:
    """Return how many rows are kept of those read, and why the others are not."""
    reasons = [f"{count:,} {reason}" for reason, count in split.dropped.items() if count]
    dropped = f" ({', '.join(reasons)})" if reasons else ""
    cut = f"; {split.truncated:,} cut at train.max_length" if split.truncated else ""
    return f"{split.kept:,} kept of {split.read:,} read{dropped}{cut}"


def _short(location: str) -> str:
    home = str(Path.home())
    return location.replace(home, "~", 1) if location.startswith(f"{home}/") else location


def _device() -> str:
    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    more = torch.cuda.device_count() - 1
    idle = f"; {more} more visible and idle: one process drives one GPU" if more else ""
    return f"{torch.cuda.get_device_name(0)}{idle}"
