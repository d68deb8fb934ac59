"""From the settings of a loss to the objective that trains, and to the fields by which TRL computes the same."""

from typing import Any

from preftune.losses.catalogue import LOSSES, SCRATCH
from preftune.losses.objective import Formula, Member, Objective, Term
from preftune.losses.plugins import check_loss
from preftune.losses.scratch_terms import SCRATCH_TERMS
from preftune.losses.terms import TERMS
from preftune.plugins import function_at
from preftune.refusals import Refusal
from preftune.spelling import did_you_mean
from preftune.training.loss_records import LossRecord, TermSettings
from preftune.training.loss_settings import PairLossSettings

# Losses of TRL 1.16 that do what ours of the same name do; docs/trl_differences.md lists where they do not.
_OF_TRL = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)


def build_objective(loss: PairLossSettings) -> Objective:
    """Return what is minimised; a loss or term of the user's own is put to the test first.

    Raises:
        Refusal: A function cannot be imported, or fails a property; the message says which, with its numbers.
    """
    members = {name: _member(record, weight) for name, (record, weight) in loss.weighted().items()}
    terms = {name: _term(name, settings) for name, settings in loss.terms.items()}
    objective = Objective(Formula(members, terms, loss.use_weighting))
    if loss.use_weighting and not objective.traits.per_pair:
        raise Refusal(
            "loss.use_weighting must be false for a loss whose costs belong to no single pair, got true beside "
            f"{loss.label}"
        )
    return objective


def _member(record: LossRecord, weight: float) -> Member:
    parameters = record.parameters()
    if record.label in LOSSES:
        loss, scratch = LOSSES[record.label], SCRATCH[record.label]
    else:
        loss = scratch = function_at(record.label, "loss.name")
        check_loss(loss, parameters, record.label)
    changed = record.changed()
    ld_alpha = changed.pop("ld_alpha", None)
    return Member(loss, scratch, parameters, weight, ld_alpha, changed or None)


def _term(name: str, settings: TermSettings) -> Term:
    key = f"loss.terms.{name}"
    function = settings.function or name
    if "." in function:
        score = scratch = function_at(function, key)
    elif function in TERMS:
        score, scratch = TERMS[function], SCRATCH_TERMS[function]
    else:
        raise Refusal(
            f"{key}.function must be one of {', '.join(TERMS)} or a function by dotted path, got "
            f"{function!r}{did_you_mean(function, TERMS)}"
        )
    check_loss(score, settings.params, function, key)
    return Term(score, scratch, settings.params, settings.weight, settings.limit, settings.rate)


def trl_fields(loss: PairLossSettings) -> dict[str, Any] | None:
    """Return the fields of TRL's trainer with which it computes the same loss; None where it has no such loss."""
    records = loss.weighted()
    sigmoid, _ = records.get("sigmoid", (None, 0.0))
    smoothed = getattr(sigmoid, "label_smoothing", 0.0)  # TRL ignores it there
    broken = loss.use_weighting and not records.keys().isdisjoint(
        ("hinge", "sft")
    )  # TRL's fail: docs/trl_differences.md
    if loss.terms or smoothed or broken or not records.keys() <= set(_OF_TRL):
        return None
    shared: dict[str, Any] = {}
    for record, _ in records.values():
        fields = record.model_dump(exclude={"name", "terms", "use_weighting"})
        if any(shared.get(name, value) != value for name, value in fields.items()):
            return None  # TRL has one beta for all of its losses
        shared |= fields
    return {
        "loss_types": list(records),
        "loss_weights": [weight for _, weight in records.values()],
        "use_weighting": loss.use_weighting,
        "beta": 1.0,
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        **shared,
    }
