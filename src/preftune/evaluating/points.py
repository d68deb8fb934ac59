"""The evaluation points of a run: its start, some on the way, its end.

At each the held-out pairs are measured and answers are sampled, one event for each of the two; the run is judged, and
may be stopped. Training goes on from a point to the bits that it would have come to without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from preftune.evaluating.answers import MeasuredAnswers, Sampler
from preftune.evaluating.settings import EvaluateSettings
from preftune.reporting.held_out import eval_map
from preftune.reporting.settings import GuardSettings
from preftune.reporting.verdict import Entered, Verdict, Watch
from preftune.training.bad_steps import BadStep
from preftune.training.methods import Trainer
from preftune.training.preparation import Prepared
from preftune.training.spikes import Spikes

Alert = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """What one evaluation came to.

    Attributes:
        step: Optimizer steps done.
        logged: What was measured on held-out pairs, as it was logged.
        answers: What sampled answers showed.
        moved: Share of the entries that train that are not what they were at the start.
    """

    step: int
    logged: Mapping[str, float]
    answers: MeasuredAnswers
    moved: float

    def eval_map(self) -> dict[str, Any]:
        """Return the `eval` map of summary.json."""
        kl = self.answers.kl_to_reference
        return eval_map(self.logged, None if kl is None else kl.mean)


_POINT, _ENTERED = TypeAdapter(Point), TypeAdapter(list[Entered])


class Points(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Measures at each point.

    Attributes:
        start: The first point, before the training.
        last: The latest one.
        watch: Judges the run.
        spikes: The steps whose loss jumped.
    """

    start: Point
    last: Point
    watch: Watch

    def __init__(
        self,
        trainer: Trainer,
        prepared: Prepared,
        settings: EvaluateSettings,
        guard: GuardSettings,
        seed: int,
        alert: Alert,
    ) -> None:
        """Join the training.

        Args:
            trainer: Evaluates, and trains.
            prepared: What it trains on.
            settings: How many points, and what is sampled at each.
            guard: How the run is judged.
            seed: Of the sampling.
            alert: Told the title and the text of a state that the run comes into.

        Raises:
            Refusal: The guard would have several processes go back.
        """
        self.trainer, self.prepared, self.settings, self.guard = trainer, prepared, settings, guard
        self.sampler = Sampler(trainer, prepared, settings, seed)
        self.alert = alert
        self.spikes = Spikes(guard.spike)
        self._due = self._goes_on = False
        trainer.allow_rollbacks(guard.rollback, self._tell)
        trainer.add_callback(self)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The latest answers, a row a prompt, as samples.jsonl holds them."""
        return self.last.answers.rows

    def measure_start(self) -> None:
        """Measure before the first update, unless that was done by an earlier start that this one goes on from."""
        if self._goes_on:
            return
        self._evaluate()
        self.start = self.last
        self.watch = Watch(self.guard, self.start.eval_map())

    def measure_end(self) -> None:
        """Measure after the last update, unless the training was stopped at a point, and judge the run."""
        if self.last.step < self.trainer.state.global_step:
            self._evaluate()
        self._judge(final=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the step's loss, and ask for an evaluation where a point is due.

        Raises:
            BadStep: The loss jumped, which the guard stops on, and the training may go back.
        """
        if not self.trainer.rollback.leaves_out(state.global_step):
            control.should_training_stop |= self._stops_on_spike(state.global_step)
        if state.global_step in inner_steps(state.max_steps, self.settings.points):
            self._due = control.should_evaluate = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sample answers where a point is due, and judge it; other evaluations are the user's own."""
        if not self._due:
            return
        self.last = Point(state.global_step, dict(kwargs["metrics"]), self.sampler.measure(), self.trainer.moved())
        self._due = False
        at_start = ledger_metrics(self.prepared) if state.global_step == 0 else {}
        self.trainer.report({**self.last.answers.metrics(), "adapter/moved": self.last.moved, **at_start})
        if self.trainer.is_in_train:
            self._judge(final=False)
            control.should_training_stop |= self.watch.stops(state.global_step, self.watch.verdict.word)

    def state(self) -> dict[str, Any]:
        """Return what was measured so far, and whether more is due at this step."""
        watch = self.watch
        return {
            "start": _POINT.dump_python(self.start),
            "last": _POINT.dump_python(self.last),
            "entered": _ENTERED.dump_python(watch.entered),
            "verdict": watch.verdict.to_json() if watch.entered else None,
            "stopped": [watch.stopped_at, watch.stopped_by],
            "spikes": self.spikes.state(),
            "due": self._due,
            "reference": self.sampler.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.start, self.last = _POINT.validate_python(state["start"]), _POINT.validate_python(state["last"])
        self.watch = Watch(self.guard, self.start.eval_map())
        self.watch.entered = _ENTERED.validate_python(state["entered"])
        if state["verdict"] is not None:
            self.watch.verdict = Verdict(**state["verdict"])
        self.watch.stopped_at, self.watch.stopped_by = state["stopped"]
        self.spikes.restore(state["spikes"])
        self.sampler.restore(state["reference"])
        self._due, self._goes_on = state["due"], True

    def _stops_on_spike(self, step: int) -> bool:
        spike = self.spikes.see(step, self.trainer.loss_of_step(), self.trainer.costs_of_step)
        if spike is None:
            return False
        if "spike" in self.guard.stop_on and self.trainer.rollback.may_go_back:
            raise BadStep(spike.sentence(), step, "spike", [row for _, row in spike.rows])
        self._tell(f"loss spike at step {step}", spike.sentence())
        return self.watch.stops(step, "spike")

    def _evaluate(self) -> None:
        self._due = True
        self.trainer.evaluate()

    def _judge(self, *, final: bool) -> None:
        entered = self.watch.see(self.last.step, self.last.eval_map(), final=final)
        if entered is not None and entered.verdict.word != "healthy":
            self._tell(f"{entered.verdict.word} at step {entered.step}", entered.verdict.sentence)

    def _tell(self, title: str, sentence: str) -> None:
        self.trainer.console.print(Text(f"warning: {title}: {sentence}", "yellow"))
        self.alert(title, sentence)


def inner_steps(steps: int, points: int) -> set[int]:
    """Return after which of `steps` optimizer steps a run is measured beside its start and its end.

    Example:
        >>> sorted(inner_steps(40, 4)), sorted(inner_steps(3, 4)), inner_steps(40, 1)
        ([10, 20, 30], [1, 2], set())
    """
    return {round(number * steps / points) for number in range(1, points)} - {0, steps}


def ledger_metrics(prepared: Prepared) -> dict[str, float]:
    """Return what became of the rows of the train split; nothing of a stream, whose rows are still to come."""
    if prepared.stream is not None:
        return {}
    split = prepared.pairs.ledger.train
    counts = {"read": split.read, "kept": split.kept, "dropped": sum(split.dropped.values())}
    return {f"data/{name}": float(count) for name, count in {**counts, "truncated": split.truncated}.items()}
