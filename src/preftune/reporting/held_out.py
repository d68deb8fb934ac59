"""What an evaluation on held-out pairs logged, by the names of summary.json."""

from collections.abc import Mapping
from typing import Any

# Name of a held-out metric as it is logged, and ours in the `eval` map. Names that stand in neither are not kept.
EVAL_NAMES = {
    "eval_loss": "loss",
    "eval_rewards/chosen": "rewards/chosen",
    "eval_rewards/rejected": "rewards/rejected",
    "eval_rewards/accuracies": "rewards/accuracies",
    "eval_rewards/margins": "rewards/margins",
    "eval_logratio/margin": "logratio_margin",
    "eval_logratio/margin_p05": "margin_p05",
    "eval_logratio/margin_p50": "margin_p50",
    "eval_logratio/margin_p95": "margin_p95",
    "eval_logratio/chosen_falls": "chosen_falls",
    "eval_logratio/length_correlation": "length_correlation",
    "eval_accuracy": "accuracy",
    "eval_logps/chosen_per_token": "chosen_logp_per_token",
    "eval_logps/rejected_per_token": "rejected_logp_per_token",
    "eval_logps/chosen_per_token_change": "chosen_logp_per_token_change",
    "eval_logps/rejected_per_token_change": "rejected_logp_per_token_change",
    "eval_kl/chosen": "kl_chosen",
    "eval_length/chosen": "length_chosen",
    "eval_length/rejected": "length_rejected",
}
_SOURCE = "eval_sources/"


def eval_map(logged: Mapping[str, float], kl_to_reference: float | None) -> dict[str, Any]:
    """Return the `eval` map from what an evaluation logged; None where there were no pairs to measure it on."""
    named: dict[str, Any] = {ours: logged.get(theirs) for theirs, ours in EVAL_NAMES.items()}
    return {**named, "kl_to_reference": kl_to_reference}


def sources_map(logged: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return accuracy, margin and number of pairs of each source; nothing where there are not several."""
    found: dict[str, dict[str, float]] = {}
    for key, value in logged.items():
        if key.startswith(_SOURCE):
            name, _, metric = key.removeprefix(_SOURCE).rpartition("/")
            found.setdefault(name, {})[metric] = value
    return found
