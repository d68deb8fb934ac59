"""What is learned from sampled answers: the sampled KL, and the true reward where the data know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preftune.evaluating.sampling import Estimate, sample_answers
from preftune.evaluating.settings import EvaluateSettings
from preftune.training.methods import Trainer
from preftune.training.preparation import Prepared


@dataclass(frozen=True, slots=True)
class MeasuredAnswers:
    """Answers to held-out prompts, and what they show.

    Attributes:
        rows: A row a prompt, as samples.jsonl holds them.
        kl_to_reference: KL(policy || reference) per answer, in nats; None where nothing was sampled.
        true_reward: Mean and standard error for `reference` and `policy`; None where no truth is known.
    """

    rows: list[dict[str, Any]]
    kl_to_reference: Estimate | None
    true_reward: Mapping[str, Mapping[str, float]] | None


def measure_answers(trainer: Trainer, prepared: Prepared, settings: EvaluateSettings, seed: int) -> MeasuredAnswers:
    """Sample answers of policy and reference to held-out prompts and measure them.

    Args:
        trainer: Knows what acts as policy and as reference.
        prepared: The held-out pairs; each distinct prompt is sampled once.
        settings: How many prompts, how long an answer.
        seed: Of the sampling.
    """
    prompts = list({repr(prompt): prompt for prompt in prepared.held_out_prompts()}.values())[: settings.prompts]
    columns = (TextColumn("sampling  "), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not prompts) as progress:
        task = progress.add_task("sampling", total=2 * len(prompts))
        answers = sample_answers(
            trainer.acting_as_policy,
            trainer.acting_as_reference,
            prepared.chat,
            prompts,
            settings,
            seed=seed,
            advance=lambda done: progress.advance(task, done),
        )
    if not prompts:
        return MeasuredAnswers([], None, None)
    rewards = None
    if (true_reward := prepared.pairs.true_reward) is not None:
        sides = {"reference": answers.reference, "policy": answers.policy}
        rewards = {side: Estimate.of([true_reward(text) for text in texts]).to_json() for side, texts in sides.items()}
    return MeasuredAnswers(list(answers.rows()), Estimate.of(answers.kl), rewards)
