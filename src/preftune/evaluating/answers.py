"""What is learned from sampled answers: the sampled KL, and the true reward where the data know it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preftune.evaluating.sampling import Answers, Estimate, Spoken, sample_policy, sample_reference
from preftune.evaluating.settings import EvaluateSettings
from preftune.training.methods import Trainer
from preftune.training.preparation import Prepared


@dataclass(frozen=True, slots=True)
class MeasuredAnswers:
    """Answers to held-out prompts, and what they show; None for what there was nothing to measure on.

    Attributes:
        rows: A row a prompt, as samples.jsonl holds them.
        kl_to_reference: KL(policy || reference) per answer, in nats.
        length: Tokens of the policy's answers, on average, end token included.
        length_reference: The same of the reference's.
        true_reward: For `reference` and `policy`, where the truth is known.
        win_rate: Share of prompts where the policy's answer has the higher true reward, a tie counting one half.
    """

    rows: list[dict[str, Any]]
    kl_to_reference: Estimate | None = None
    length: float | None = None
    length_reference: float | None = None
    true_reward: Mapping[str, Estimate] | None = None
    win_rate: Estimate | None = None

    @classmethod
    def of(cls, answers: Answers, true_reward: Callable[[str], float] | None) -> "MeasuredAnswers":
        """Measure `answers`; `true_reward` is that of a text, None where it is not known."""
        if not answers.prompts:
            return cls([])
        rewards = wins = None
        if true_reward is not None:
            sides = {"reference": answers.reference, "policy": answers.policy}
            found = {side: [true_reward(text) for text in spoken.texts] for side, spoken in sides.items()}
            rewards = {side: Estimate.of(values) for side, values in found.items()}
            both = zip(found["policy"], found["reference"], strict=True)
            wins = Estimate.of([0.5 if ours == theirs else float(ours > theirs) for ours, theirs in both])
        lengths = fmean(answers.policy.lengths), fmean(answers.reference.lengths)
        return cls(list(answers.rows()), Estimate.of(answers.kl), *lengths, rewards, wins)

    def metrics(self) -> dict[str, float]:
        """Return what is logged, by name; of one prompt alone no standard errors."""
        if self.length is None or self.length_reference is None:
            return {}
        estimates = {"kl/sampled": self.kl_to_reference, "win_rate": self.win_rate}
        estimates |= {f"true_reward/{side}": estimate for side, estimate in (self.true_reward or {}).items()}
        found = {"length/sampled": self.length, "length/sampled_reference": self.length_reference}
        for name, estimate in estimates.items():
            if estimate is not None:
                found[name] = estimate.mean
                if len(self.rows) > 1:
                    found[f"{name}_stderr"] = estimate.stderr
        return found


class Sampler:
    """Samples answers to the same held-out prompts, as often as it is asked; the reference answers once."""

    def __init__(self, trainer: Trainer, prepared: Prepared, settings: EvaluateSettings, seed: int) -> None:
        """Keep what is sampled.

        Args:
            trainer: Knows what acts as policy and as reference.
            prepared: The held-out pairs; each distinct prompt is sampled once.
            settings: How many prompts, how long an answer.
            seed: Of the sampling, the same each time.
        """
        self.trainer, self.prepared, self.settings, self.seed = trainer, prepared, settings, seed

    def measure(self) -> MeasuredAnswers:
        """Sample and measure; before the first update a policy that is its reference is not asked again."""
        prompts, trainer = self.prompts, self.trainer
        said, kl = self._of_reference, [0.0] * len(prompts)
        if prompts and not (trainer.starts_at_reference and trainer.state.global_step == 0):
            with self._bar("policy") as advance:
                said, kl = sample_policy(
                    trainer.acting_as_policy,
                    trainer.acting_as_reference,
                    self.prepared.chat,
                    prompts,
                    self.settings,
                    seed=self.seed,
                    advance=advance,
                )
        return MeasuredAnswers.of(Answers(prompts, self._of_reference, said, kl), self.prepared.pairs.true_reward)

    def state(self) -> dict[str, Any] | None:
        """Return what the reference said; None before it was asked."""
        said: Spoken | None = vars(self).get("_of_reference")
        return None if said is None else asdict(said)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take what the reference said to an earlier start, where it was asked."""
        if state is not None:
            self._of_reference = Spoken(**state)

    @cached_property
    def prompts(self) -> list[Any]:
        """The distinct held-out prompts that are sampled."""
        distinct = {repr(prompt): prompt for prompt in self.prepared.held_out_prompts()}
        return list(distinct.values())[: self.settings.prompts]

    @cached_property
    def _of_reference(self) -> Spoken:
        with self._bar("reference") as advance:
            return sample_reference(
                self.trainer.acting_as_reference,
                self.prepared.chat,
                self.prompts,
                self.settings,
                seed=self.seed,
                advance=advance,
            )

    @contextmanager
    def _bar(self, side: str) -> Iterator[Callable[[int], None]]:
        """Show how far the sampling is; inside the training its own bar stays alone."""
        columns = (TextColumn("sampling  "), BarColumn(), MofNCompleteColumn(), TextColumn(side), TimeRemainingColumn())
        with Progress(*columns, disable=not self.prompts or self.trainer.is_in_train) as progress:
            task = progress.add_task("sampling", total=len(self.prompts))

            def advance(done: int) -> None:
                progress.advance(task, done)
                self.trainer.give_up_if_asked()

            yield advance
