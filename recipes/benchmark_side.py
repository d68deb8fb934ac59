"""One measurement of `recipes.benchmark engine`, in a process of its own: a job is read, and answered beside it."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from preftune import config
from preftune.benchmarking.memory import peak
from preftune.benchmarking.operations import Operations, counting, floor
from preftune.engine.layout import lay_out
from preftune.models.settings import LowRankSettings
from preftune.refusals import Refusal
from preftune.runs import environment
from preftune.runs.exits import exits
from preftune.training.arguments import trl_arguments
from preftune.training.objectives import trl_fields
from preftune.training.preparation import Prepared, prepare
from preftune.training.trainer import PairTrainer, build_trainer
from recipes.benchmark_agreement import agreement, labelled

_WARM_UP = 2  # micro-batches that each side passes forward and backward before it is timed


class OnIds(DPOTrainer):
    """Stock TRL, on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class Recorder:
    """What a trainer is given and what it loses, step by step; nothing is read before the end."""

    def __init__(self, trainer: Any, *, keep: bool = False) -> None:
        """Listen to the training steps of `trainer`; with `keep`, keep the batches."""
        self.trainer, self.keep = trainer, keep
        self.losses: dict[int, list[Tensor]] = {}
        self.batches: list[dict[str, Tensor]] = []
        self.counts: list[tuple[int, int, Tensor, Tensor]] = []
        self.step = trainer.training_step
        trainer.training_step = self

    def __call__(self, model: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        """Do the trainer's own training step."""
        attention, completion = inputs["attention_mask"], inputs["completion_mask"]
        half = len(attention) // 2
        repeated = attention[half:].sum() - completion[half:].sum()
        self.counts.append((half, attention.numel(), attention.sum(), repeated))
        if self.keep:
            self.batches.append(inputs)
        loss: Tensor = self.step(model, inputs, *rest)
        self.losses.setdefault(self.trainer.state.global_step, []).append(loss)
        return loss

    def found(self) -> dict[str, Any]:
        """Return pairs, tokens, losses, and the shares of what was computed that are padding or a prompt again."""
        pairs, places, tokens, repeated = (
            sum(int(each) for each in column) for column in zip(*self.counts, strict=True)
        )
        return {
            "pairs": pairs,
            "tokens": tokens,
            "padding": 1 - tokens / places,
            "repeated": repeated / places,
            "losses": [sum(each.item() for each in self.losses[step]) for step in sorted(self.losses)],
        }


def prepared_for(run: config.Config) -> Prepared:
    """Prepare as a run does."""
    return prepare(run.model, run.data, run.adapter, run.train, run.loss, run.seed)


def stock_trainer(run: config.Config, prepared: Prepared, directory: Path) -> OnIds:
    """Set up TRL's own trainer as its user does: a base model with a new adapter's settings, and its own collator.

    Raises:
        Refusal: TRL has no such loss, or starts this adapter from another reference.
    """
    fields = trl_fields(run.loss)  # type: ignore[arg-type]
    if fields is None:
        raise Refusal(f"loss.name must be a loss that TRL has too, got {run.loss.name}")
    arguments = trl_arguments(DPOConfig, run.train, prepared.steps, directory, seed=run.seed, beta=fields["beta"])
    arguments.discopop_tau = fields.pop("tau", arguments.discopop_tau)
    arguments.use_weighting = fields["use_weighting"]
    policy: Any = prepared.policy
    adapter = None
    if isinstance(run.adapter, LowRankSettings) and run.adapter.path is None:
        adapter = policy.peft_config["default"]
        policy = policy.unload()
    elif isinstance(policy, PeftModel) and run.reference == "base":
        raise Refusal(f"reference must be adapter where adapter.path is given, as it is for TRL, got {run.reference}")
    trainer = OnIds(
        model=policy,
        args=arguments,
        train_dataset=prepared.rows.rows,
        processing_class=prepared.chat.tokenizer,
        peft_config=adapter,
    )
    vars(trainer).update(fields)
    return trainer


def our_trainer(run: config.Config, prepared: Prepared, directory: Path, kind: str | None = None) -> PairTrainer:
    """Set up ours as a run does, but for the check of its first step; `kind` says how attention is told the pairs."""
    trainer = build_trainer(
        prepared,
        run.train,
        run.loss,  # type: ignore[arg-type]
        run.reference,
        run.engine,
        "off",
        run.seed,
        directory,
    )
    if kind is not None and trainer.engine.name == "shared":
        trainer.engine = replace(trainer.engine, kind=kind)  # type: ignore[type-var]
    return trainer


def warm_up(trainer: Any, forward: Callable[..., Any]) -> None:
    """Pass a few micro-batches forward and backward, so that neither side is timed while kernels are chosen."""
    rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    trainer.model.train()
    for start in range(0, min(_WARM_UP * size, len(rows)), size):
        batch = trainer.data_collator(list(rows.select(range(start, min(start + size, len(rows))))))
        forward(**labelled(trainer._prepare_inputs(batch))).log_probs.sum().backward()
    trainer.model.zero_grad()


def timed(trainer: Any, work: Callable[[], object]) -> dict[str, Any]:
    """Return seconds, memory, and what the trainer was given while it did the work."""
    recorder = Recorder(trainer)
    with peak() as memory:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    held = {"peak": memory.highest, "growth": memory.growth}
    return {"seconds": seconds, "trained": len(trainer.train_dataset), **held, **recorder.found()}


def stock(run: config.Config, directory: Path, kind: str | None) -> dict[str, Any]:
    """Time TRL."""
    trainer: Any = stock_trainer(run, prepared_for(run), directory)
    warm_up(trainer, lambda **inputs: trainer.model(**inputs, use_cache=False, fused_lm_head=True))
    return timed(trainer, trainer.train)


def ours(run: config.Config, directory: Path, kind: str | None) -> dict[str, Any]:
    """Time ours, the reference with it; where that is kept of an earlier run it is checked and no more."""
    trainer = our_trainer(run, prepared_for(run), directory, kind)
    warm_up(trainer, trainer.engine.forward(trainer.model, trainer.objective.traits.tokens, metrics=True))

    def work() -> None:
        trainer.keep_reference()
        trainer.train()

    return {"engine": trainer.engine.name, **timed(trainer, work)}


def operations(run: config.Config, directory: Path, kind: str | None) -> dict[str, Any]:
    """Count both sides' operations, and the floor of what they were given; the reference must not be kept yet."""
    prepared = prepared_for(run)
    model = prepared.policy
    trainer = our_trainer(run, prepared, directory, "blocks" if torch.cuda.is_available() else kind)
    recorder = Recorder(trainer, keep=True)
    with counting() as reference:
        trainer.keep_reference()
    with counting() as again:
        trainer.keep_reference()
    with counting() as training:
        trainer.train()
    layouts = [lay_out(b["input_ids"], b["attention_mask"], b["completion_mask"]) for b in recorder.batches]
    fewest = floor(model, layouts)
    theirs = stock_trainer(run, prepared_for(run), directory)
    with counting() as stock_training:
        theirs.train()
    found = {
        "stock": stock_training,
        "computed": reference + training,
        "cached": again + training,
        "floor_computed": fewest.policy + fewest.reference,
        "floor_cached": fewest.policy,
    }
    return {name: as_numbers(each) for name, each in found.items()}


def as_numbers(found: Operations) -> dict[str, int]:
    """Return both figures by name."""
    return {"counted": found.counted, "total": found.total}


def rate(run: config.Config, directory: Path, kind: str | None) -> dict[str, Any]:
    """Measure the device's rate of matrix products, in operations per second, in the type the model computes in."""
    has_cuda = torch.cuda.is_available()
    size, times = (8192, 50) if has_cuda else (1024, 10)
    dtype = getattr(torch, run.model.dtype) if has_cuda else torch.float32
    left, right = torch.randn(2, size, size, device="cuda" if has_cuda else "cpu").to(dtype)
    best = float("inf")
    for _ in range(3):
        if has_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            left @ right
        if has_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    device = torch.cuda.get_device_name() if has_cuda else f"CPU, {torch.get_num_threads()} threads"
    return {"rate": 2 * size**3 * times / best, "device": device, "torch": torch.__version__}


def agree(run: config.Config, directory: Path, kind: str | None) -> dict[str, Any]:
    """Compare the two sides on the first batch, and ours in float64 with the model's own logits."""
    trainer = our_trainer(run, prepared_for(run), directory, kind)
    theirs = stock_trainer(run, prepared_for(run), directory)

    def in_float64() -> PairTrainer:
        prepared = prepared_for(run)
        double: Any = prepared.policy.double()
        wide = run.model_copy(update={"engine": "shared"})
        return our_trainer(wide, replace(prepared, policy=double), directory)

    is_small = trainer.model.num_parameters() < 1e9 and run.model.quantization is None and not torch.cuda.is_available()
    return agreement(trainer, theirs, in_float64 if is_small and trainer.engine.name == "shared" else None)


TASKS: Mapping[str, Callable[[config.Config, Path, str | None], dict[str, Any]]] = {
    "stock": stock,
    "ours": ours,
    "operations": operations,
    "rate": rate,
    "agreement": agree,
}


def main(path: Path) -> None:
    """Do the job at `path`."""
    environment.settle()
    job = json.loads(path.read_text())
    run = config.Config.model_validate(job["config"])
    with exits():
        found = TASKS[job["task"]](run, path.parent / "out", job["kind"])
    path.with_suffix(".found").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
