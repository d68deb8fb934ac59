"""Every metric that a run logs: where a dashboard shows it, its unit, and what it means.

Dashboards are built from this list, and a test holds it against what runs log.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

SECTIONS = (
    "Held-out pairs",
    "Training",
    "Distance to the reference",
    "Reward of sampled answers",
    "Lengths",
    "Sources",
    "Speed and memory",
    "Data",
    "Bookkeeping",
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: As logged; `<word>` stands for a name of the run's own.
        section: One of `SECTIONS`.
        panel: Title of the panel that shows it.
        unit: What it is measured in; `1` for plain numbers.
        meaning: One line.
        only: Where it is logged, if not in every run on pairs.
    """

    name: str
    section: str
    panel: str
    unit: str
    meaning: str
    only: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression of the names that it stands for."""
        return re.sub(r"<\w+>", ".+", re.escape(self.name))

    @property
    def varies(self) -> bool:
        """Whether it stands for several names."""
        return "<" in self.name


def find(name: str) -> Metric | None:
    """Return the metric that is logged as `name`; an exact name comes before a pattern."""
    exact = next((metric for metric in METRICS if metric.name == name), None)
    return exact or next((metric for metric in METRICS if metric.varies and re.fullmatch(metric.pattern, name)), None)


def _on_pairs() -> Iterator[Metric]:
    """Yield what is measured alike on held-out pairs, as `eval_<name>`, and on the pairs of training."""
    for metric in _PAIRS:
        yield metric
        section = "Held-out pairs" if metric.section == "Training" else metric.section
        meaning = f"{metric.meaning}; held-out pairs"
        panel = f"{metric.panel}, held out"
        yield replace(metric, name=f"eval_{metric.name}", section=section, panel=panel, meaning=meaning)


_REFERENCE = "Distance to the reference"
_REWARD = "Reward of sampled answers"
_SPEED = "Speed and memory"
_KTO = "method=kto"
_TRUTH = "a true reward is known"

_PAIRS = (
    Metric(
        "loss", "Training", "loss", "nats", "mean cost of a pair; the first is that of a policy equal to its reference"
    ),
    Metric("accuracy", "Training", "accuracy", "share", "pairs with a positive margin, a tie counting one half"),
    Metric("logratio/margin", "Training", "margin of log-ratios", "nats", "log-ratio of chosen less that of rejected"),
    Metric("logratio/margin_p05", "Training", "margin of log-ratios", "nats", "its 5th percentile"),
    Metric("logratio/margin_p50", "Training", "margin of log-ratios", "nats", "its median"),
    Metric("logratio/margin_p95", "Training", "margin of log-ratios", "nats", "its 95th percentile"),
    Metric("rewards/chosen", "Training", "rewards", "nats", "beta times the log-ratio of chosen answers"),
    Metric("rewards/rejected", "Training", "rewards", "nats", "beta times the log-ratio of rejected answers"),
    Metric("rewards/margins", "Training", "rewards", "nats", "their difference; not to be compared across beta"),
    Metric("rewards/accuracies", "Training", "accuracy", "share", "TRL's accuracy, a tie counting nothing"),
    Metric("logratio/chosen_falls", _REFERENCE, "chosen falls", "share", "chosen answers less likely than before"),
    Metric("logps/chosen_per_token", _REFERENCE, "log p per token", "nats", "of chosen answers"),
    Metric("logps/rejected_per_token", _REFERENCE, "log p per token", "nats", "of rejected answers"),
    Metric(
        "logps/chosen_per_token_change", _REFERENCE, "change of log p per token", "nats", "from the reference, chosen"
    ),
    Metric(
        "logps/rejected_per_token_change",
        _REFERENCE,
        "change of log p per token",
        "nats",
        "from the reference, rejected",
    ),
    Metric("kl/chosen", _REFERENCE, "KL on chosen answers", "nats", "mean log-ratio of chosen answers"),
    Metric("kl", _REFERENCE, "KL on mismatched answers", "nats", "mean log-ratio of other prompts' answers", _KTO),
    Metric("length/chosen", "Lengths", "length of pairs", "tokens", "of chosen answers"),
    Metric("length/rejected", "Lengths", "length of pairs", "tokens", "of rejected answers"),
    Metric(
        "logratio/length_correlation",
        "Lengths",
        "margin and length",
        "1",
        "Pearson's, of margin and chosen less rejected",
    ),
    Metric("logps/chosen", "Bookkeeping", "log p", "nats", "of a whole chosen answer"),
    Metric("logps/rejected", "Bookkeeping", "log p", "nats", "of a whole rejected answer"),
    Metric("logits/chosen", "Bookkeeping", "logits", "1", "mean over tokens and vocabulary, chosen"),
    Metric("logits/rejected", "Bookkeeping", "logits", "1", "mean over tokens and vocabulary, rejected"),
    Metric("entropy", "Bookkeeping", "entropy", "nats", "of the next token, mean over answers"),
    Metric(
        "mean_token_accuracy", "Bookkeeping", "token accuracy", "share", "tokens of chosen answers that are likeliest"
    ),
    Metric("num_tokens", "Bookkeeping", "tokens seen", "tokens", "prompts and answers so far"),
    Metric(
        "terms/<term>", "Bookkeeping", "penalty terms", "nats", "what a term adds, measures, or weighs", "loss.terms"
    ),
)

METRICS: tuple[Metric, ...] = (
    *_on_pairs(),
    Metric("grad_norm", "Training", "gradient norm", "1", "before clipping"),
    Metric("learning_rate", "Training", "learning rate", "1", "of the step"),
    Metric("kl/sampled", _REFERENCE, "KL of sampled answers", "nats", "KL(policy || reference) of an answer"),
    Metric("kl/sampled_stderr", _REFERENCE, "KL of sampled answers", "nats", "its standard error over prompts"),
    Metric("adapter/moved", _REFERENCE, "trainable entries moved", "share", "that differ from the start"),
    Metric("true_reward/policy", _REWARD, "true reward", "1", "of the policy's answers", _TRUTH),
    Metric("true_reward/policy_stderr", _REWARD, "true reward", "1", "its standard error over prompts", _TRUTH),
    Metric("true_reward/reference", _REWARD, "true reward", "1", "of the reference's answers", _TRUTH),
    Metric("true_reward/reference_stderr", _REWARD, "true reward", "1", "its standard error over prompts", _TRUTH),
    Metric("win_rate", _REWARD, "win rate", "share", "prompts where the policy's answer has the higher reward", _TRUTH),
    Metric("win_rate_stderr", _REWARD, "win rate", "share", "its standard error over prompts", _TRUTH),
    Metric("length/sampled", "Lengths", "length of sampled answers", "tokens", "of the policy's"),
    Metric("length/sampled_reference", "Lengths", "length of sampled answers", "tokens", "of the reference's"),
    *(
        Metric(f"eval_sources/<source>/{name}", "Sources", f"{name} by source", unit, meaning, "2 to 20 sources")
        for name, unit, meaning in (
            ("accuracy", "share", "of held-out pairs of the source"),
            ("margin", "nats", "of log-ratios, held-out pairs of the source"),
            ("pairs", "pairs", "held out of the source"),
        )
    ),
    Metric("speed/pairs_per_second", _SPEED, "pairs per second", "pairs/s", "trained on since the last event"),
    Metric("speed/tokens_per_second", _SPEED, "tokens per second", "tokens/s", "trained on since the last event"),
    Metric("memory/peak_bytes", _SPEED, "peak memory", "bytes", "most held so far, of the GPU where there is one"),
    Metric("data/read", "Data", "rows read", "pairs", "rows read for training"),
    Metric("data/kept", "Data", "pairs kept", "pairs", "trained on"),
    Metric("data/dropped", "Data", "rows dropped", "pairs", "left out; ledger.json says why"),
    Metric("data/truncated", "Data", "pairs cut", "pairs", "kept, but cut to fit"),
    Metric("epoch", "Bookkeeping", "epoch", "epochs", "passes over the pairs so far"),
    *(
        Metric(f"{stage}_{name}", "Bookkeeping", panel, unit, meaning)
        for stage, panel in (("eval", "evaluation's time"), ("train", "training's time"))
        for name, unit, meaning in (
            ("runtime", "s", "seconds of it"),
            ("samples_per_second", "pairs/s", "pairs in a second of it"),
            ("steps_per_second", "1/s", "micro-batches or steps in a second of it"),
        )
    ),
    Metric("eval_model_preparation_time", "Bookkeeping", "evaluation's time", "s", "before the first evaluation"),
    Metric("train_loss", "Bookkeeping", "whole training", "nats", "mean loss over all steps"),
    Metric(
        "total_flos", "Bookkeeping", "whole training", "1", "floating-point operations, as transformers counts them"
    ),
)
