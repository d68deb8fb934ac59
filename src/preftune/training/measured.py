"""A trainer that measures what it trains on and what it is evaluated on, and leaves the training as it was."""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preftune.losses.answers import AnswerLogps
from preftune.losses.logps import PairLogps
from preftune.models.memory import peak_memory_bytes
from preftune.training.callbacks import TrainBegin
from preftune.training.sides import Sides

_HELD = 65_536  # entries of a tensor that are compared with the start

Record = PairLogps | AnswerLogps


class MeasuredTraining(Sides):
    """Metrics around the stock training loop; stands before a trainer of TRL among the bases of a class.

    The class gives `_training_metrics` and `_evaluation_metrics`; it calls `keep_trained` and `keep_evaluated` with
    each micro-batch.

    Attributes:
        seconds_in_evaluation: Wall-clock seconds spent on evaluation while training.
    """

    is_in_train: bool
    args: Any
    _metrics: dict[str, dict[str, list[float]]]

    def take_over(self, trained: Mapping[str, Tensor], reference: str) -> None:
        """As of `Sides`; keep some of what trains as it is now."""
        super().take_over(trained, reference)
        self._start = {name: _spread(p) for name, p in self.model.named_parameters() if p.requires_grad}
        self._trained: list[Record] = []
        self._evaluated: list[Record] = []
        self._evaluated_sums: list[tuple[Record, Tensor]] = []
        self._counted = (0, 0)
        self._running_since = 0.0
        self.add_callback(TrainBegin(self._begin))

    def keep_trained(self, logps: Record) -> None:
        """Keep a micro-batch for the next log event."""
        self._trained.append(_sums(logps))

    def keep_evaluated(self, logps: Record, rows: Tensor) -> None:
        """Keep a batch of an evaluation, whose pairs or answers stand at `rows`."""
        gather = self.accelerator.gather_for_metrics
        self._evaluated.append(logps)
        self._evaluated_sums.append((_each(_sums(logps), gather), gather(rows)))

    def evaluate(self, *args: Any, **keywords: Any) -> dict[str, float]:
        """Evaluate; random numbers, the mode of the model and the seconds of the training go on as if nothing were."""
        started, was_training = time.perf_counter(), self.model.training
        with random_numbers_kept():
            found: dict[str, float] = super().evaluate(*args, **keywords)  # type: ignore[misc]
        if self.is_in_train:
            self.model.train(was_training)
            self.seconds_in_evaluation += time.perf_counter() - started
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was measured since the last event of this kind: over all of its pairs, not over batches."""
        if self.model.training and self._trained:
            self._add("train", self._since_last_event())
        elif not self.model.training and self._evaluated:
            sums, own = _joined([sums for sums, _ in self._evaluated_sums]), _joined(self._evaluated)
            rows = torch.cat([rows for _, rows in self._evaluated_sums])
            self._add("eval", self._evaluation_metrics(sums, rows, own))
            self._evaluated, self._evaluated_sums = [], []
        super().log(logs, start_time)  # type: ignore[misc]

    def moved(self) -> float:
        """Return the share of the entries that train that are not what they were at the start."""
        differ = total = 0.0
        for name, parameter in self.model.named_parameters():
            if name in self._start:
                share = (_spread(parameter) != self._start[name]).double().mean().item()
                differ, total = differ + share * parameter.numel(), total + parameter.numel()
        return differ / total

    def _since_last_event(self) -> dict[str, float]:
        """Return the metrics of the pairs trained on since, over all processes, and what they cost."""
        measured = self._training_metrics(_each(_joined(self._trained), self.accelerator.gather))
        counted = self.pairs_seen, self.tokens_seen
        ours = torch.tensor([[now - then for now, then in zip(counted, self._counted, strict=True)]])
        pairs, tokens = self.accelerator.gather(ours.to(self.args.device)).sum(dim=0).tolist()
        seconds = self._clock() - self._running_since
        self._trained, self._counted, self._running_since = [], counted, self._clock()
        speed = {"speed/pairs_per_second": pairs / seconds, "speed/tokens_per_second": tokens / seconds}
        return measured | speed | {"memory/peak_bytes": float(peak_memory_bytes())}

    def _add(self, split: str, measured: Mapping[str, float]) -> None:
        self._metrics[split].update({name: [value] for name, value in measured.items()})

    def _clock(self) -> float:
        return time.perf_counter() - self.seconds_in_evaluation

    def _begin(self) -> None:
        """Begin to train: once all stands ready for the first step."""
        self._running_since = self._clock()

    def _training_metrics(self, logps: Any) -> dict[str, float]:
        """Return what is measured on the record of what was trained on."""
        raise NotImplementedError

    def _evaluation_metrics(self, sums: Any, rows: Tensor, own: Any) -> dict[str, float]:
        """Return what is measured in an evaluation.

        Args:
            sums: Sums and lengths of all pairs or answers.
            rows: Their places, in the same order.
            own: The whole record of those that this process had: with several processes losses are of the main one.
        """
        raise NotImplementedError


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Let Python's, NumPy's and torch's random numbers go on as if the block had not been."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _joined(records: Sequence[Any]) -> Record:
    return type(records[0]).concatenate(list(records))  # type: ignore[no-any-return]


def _sums(logps: Record) -> Record:
    return logps.sums() if isinstance(logps, PairLogps) else logps.detach()


def _each(record: Record, gather: Any) -> Record:
    """Return a record of sums whose tensors went through `gather`."""
    tensors = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(record, **{name: gather(value) for name, value in tensors.items() if isinstance(value, Tensor)})


def _spread(parameter: Tensor) -> Tensor:
    """Return at most `_HELD` entries, evenly spaced, as they are now."""
    flat = parameter.detach().reshape(-1)
    step = math.ceil(flat.numel() / _HELD) | 1  # an odd step meets every column of a matrix
    return flat[::step].cpu().clone()
