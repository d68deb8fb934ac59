"""Losses with their weights, terms and limits, beside the from-scratch sum; what moves between steps."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from preftune.losses.objective import Formula, Member, Objective, Term
from preftune.losses.pairwise import hinge, sigmoid
from preftune.losses.reference_free import simpo
from preftune.refusals import Refusal
from preftune.training.loss_settings import LossSettings
from preftune.training.objectives import build_objective, trl_fields
from tests.losses import PARAMETERS, random_record, record

MARGIN = {"ld_alpha": 0.4}, {"f_divergence_type": "forward_kl"}, {"f_divergence_type": "js_divergence"}
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}
TERMS = {"nll": {"weight": 0.3}, "length": {"weight": 2.0}, "kl": {"weight": 0.7, "limit": 0.1}}


def objective(name: str, **fields: Any) -> Objective:
    loss = TypeAdapter(LossSettings).validate_python({"name": name, **fields})
    return build_objective(loss)


def both(built: Objective, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    logps = random_record(count)
    if not built.traits.per_pair:
        logps = dataclasses.replace(logps, extras={})
    return built(logps), built.from_scratch(logps)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("extra", [{"terms": TERMS}, {"use_weighting": True}], ids=["terms", "weighting"])
def test_every_loss_takes_terms_and_wpos_weights_as_the_from_scratch_sum_does(name: str, extra: dict[str, Any]) -> None:
    if name.startswith("aot") and "use_weighting" in extra:
        with pytest.raises(Refusal, match=r"^loss\.use_weighting must be false for a loss whose costs belong to no "):
            objective(name, **PARAMETERS[name], **extra)
        return
    ours, scratch = both(objective(name, **PARAMETERS[name], **extra))
    plain, _ = both(objective(name, **PARAMETERS[name]))
    torch.testing.assert_close(ours, scratch, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, plain)


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "hinge", "robust", "exo_pair", "discopop", "sigmoid_norm", "rdpo"])
@pytest.mark.parametrize("changed", [*MARGIN, ALPHA, ALPHA | {"ld_alpha": 0.0}], ids=str)
def test_a_loss_of_the_margin_takes_divergences_as_the_from_scratch_one_does(
    name: str, changed: dict[str, Any]
) -> None:
    ours, scratch = both(objective(name, **PARAMETERS[name], **changed))
    plain, _ = both(objective(name, **PARAMETERS[name]))
    torch.testing.assert_close(ours, scratch, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, plain)


@pytest.mark.parametrize("name", ["dpop", "apo_zero", "nca_pair", "cal_dpo", "aot"])
def test_a_loss_with_a_reference_takes_ld_alpha_as_the_from_scratch_one_does(name: str) -> None:
    ours, scratch = both(objective(name, **PARAMETERS[name], ld_alpha=0.4))
    plain, _ = both(objective(name, **PARAMETERS[name]))
    torch.testing.assert_close(ours, scratch, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, plain)


def test_a_sum_is_worked_by_hand() -> None:
    # margin 3: sigmoid at beta 0.5 costs log(1 + e^-1.5) = 0.201413, hinge at beta 0.1 costs 0.7
    built = objective(
        "sum",
        losses={"sigmoid": {"beta": 0.5, "label_smoothing": 0.0}, "hinge": {"beta": 0.1}},
        weights={"sigmoid": 2.0, "hinge": 0.5},
    )
    pair = record(2.0, -1.0)
    assert built(pair).item() == pytest.approx(2 * 0.201413 + 0.5 * 0.7, abs=1e-6)
    assert built.from_scratch(pair).item() == pytest.approx(2 * 0.201413 + 0.5 * 0.7, abs=1e-6)
    assert built.costs(pair).keys() == {"loss"}


def _excess(logps: Any, *, scale: float = 1.0) -> torch.Tensor:
    return scale * logps.margin()  # type: ignore[no-any-return]


def with_term(**fields: Any) -> Objective:
    members = {"sigmoid": Member(sigmoid, sigmoid, {"beta": 0.5})}
    return Objective(Formula(members, {"excess": Term(_excess, _excess, **fields)}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # the margin is 3
        ({"weight": 0.5}, 1.5),
        ({"weight": 0.5, "parameters": {"scale": 4.0}}, 6.0),
        ({"weight": 0.5, "limit": 1.0}, 1.0),
        ({"weight": 0.5, "limit": 3.5}, 0.0),
        # with a rate the cost goes on below the limit, as a Lagrangian does
        ({"weight": 0.5, "limit": 3.5, "rate": 0.1}, -0.25),
    ],
)
def test_a_term_costs_what_its_weight_and_limit_make_of_its_score(fields: dict[str, Any], expected: float) -> None:
    built, pair = with_term(**fields), record(2.0, -1.0)
    parts = built.costs(pair)
    assert parts["excess"].item() == pytest.approx(expected)
    assert parts["loss"].item() == pytest.approx(0.201413, abs=1e-6)
    assert built(pair).item() == pytest.approx(0.201413 + expected, abs=1e-6)
    assert built.from_scratch(pair).item() == pytest.approx(0.201413 + expected, abs=1e-6)
    assert built.scores(pair)["excess"].item() == pytest.approx(3.0 * fields.get("parameters", {}).get("scale", 1.0))


def test_a_pairs_weight_multiplies_loss_and_terms() -> None:
    built = with_term(weight=0.5)
    pair = record(2.0, -1.0, weight=3.0)
    assert built(pair).item() == pytest.approx(3 * (0.201413 + 1.5), abs=1e-6)
    assert built.from_scratch(pair).item() == pytest.approx(3 * (0.201413 + 1.5), abs=1e-6)


def test_a_multiplier_rises_above_its_limit_falls_below_it_and_stays_at_least_zero() -> None:
    built = with_term(weight=1.0, limit=2.0, rate=0.1)
    built.observe(record(2.0, -1.0))  # margins of 3 and 5: the mean is 2 above the limit
    built.observe(record(4.0, -1.0))
    built.advance()
    assert built.multipliers["excess"] == pytest.approx(1.2)
    built.observe(record(0.0, 1.0))  # a margin of -1: 3 below
    built.advance()
    assert built.multipliers["excess"] == pytest.approx(0.9)
    for _ in range(4):
        built.observe(record(0.0, 1.0))
        built.advance()
    assert built.multipliers["excess"] == 0.0


def test_a_weight_without_a_rate_stays() -> None:
    built = with_term(weight=1.0, limit=2.0)
    built.observe(record(4.0, -1.0))
    built.advance()
    assert built.multipliers["excess"] == 1.0


def test_the_running_margin_is_that_of_the_first_step_and_then_moves_by_a_tenth() -> None:
    built = objective("beta_dpo", beta=0.1, alpha=6.0)
    built.observe(record(2.0, -1.0))
    built.advance()
    assert built.running == {"margin": pytest.approx(3.0)}
    built.observe(record(12.0, -1.0))
    built.advance()
    assert built.running == {"margin": pytest.approx(0.9 * 3 + 0.1 * 13)}
    # beta (1 + 6 * 0.1 (3 - 4)) = 0.04 at a margin of 3
    pair = record(2.0, -1.0)
    assert built(pair).item() == pytest.approx(math.log1p(math.exp(-0.04 * 3)), abs=1e-6)
    assert built.from_scratch(pair).item() == pytest.approx(math.log1p(math.exp(-0.04 * 3)), abs=1e-6)


def test_what_an_objective_reads_is_what_its_parts_read() -> None:
    assert objective("sigmoid", beta=0.1, label_smoothing=0.0).traits.tokens == ()
    assert objective("sigmoid", beta=0.1, label_smoothing=0.0, ld_alpha=0.5).traits.tokens == ("logps",)
    weighted = objective("sigmoid", beta=0.1, label_smoothing=0.0, use_weighting=True)
    assert weighted.traits.tokens == ("collision", "logps")
    assert objective("hinge", beta=0.1, terms={"kl": {}}).traits.tokens == ("kl", "logps")
    assert not objective("aot", beta=0.1, label_smoothing=0.0).traits.per_pair
    mixed = {"losses": {"hinge": {"beta": 0.1}, "sft": {}}, "weights": {"hinge": 1.0, "sft": 1.0}}
    assert not objective("sum", **mixed).traits.accumulates


@pytest.mark.parametrize(
    ("terms", "fault"),
    [
        (
            {"lenght": {}},
            "loss.terms.lenght.function must be one of nll, length, kl or a function by dotted path, got 'lenght'; "
            "did you mean length?",
        ),
        ({"nll": {"params": {"tau": 1.0}}}, "loss.terms.nll must "),
        ({"own": {"function": "no_such_module.f"}}, "loss.terms.own must name a function of a module that can be"),
    ],
)
def test_a_term_that_cannot_be_used_is_refused_by_its_key(terms: dict[str, Any], fault: str) -> None:
    with pytest.raises(Refusal) as refused:
        objective("hinge", beta=0.1, terms=terms)
    assert str(refused.value).startswith(fault)


@pytest.mark.parametrize(
    ("fields", "stock"),
    [
        ({"name": "sigmoid", "beta": 0.1, "label_smoothing": 0.1}, None),
        ({"name": "simpo", "beta": 2.0, "gamma": 1.0}, None),
        ({"name": "hinge", "beta": 0.1, "terms": {"nll": {}}}, None),
        (
            {
                "name": "sum",
                "losses": {"hinge": {"beta": 0.1}, "ipo": {"beta": 0.2}},
                "weights": {"hinge": 1.0, "ipo": 1.0},
            },
            None,
        ),
        (
            {"name": "hinge", "beta": 0.3, "ld_alpha": 0.5},
            {"loss_types": ["hinge"], "loss_weights": [1.0], "beta": 0.3, "ld_alpha": 0.5},
        ),
        (
            {
                "name": "sum",
                "losses": {"ipo": {"beta": 0.1}, "bco_pair": {"beta": 0.1}},
                "weights": {"ipo": 0.8, "bco_pair": 0.2},
                "use_weighting": True,
            },
            {"loss_types": ["ipo", "bco_pair"], "loss_weights": [0.8, 0.2], "beta": 0.1, "use_weighting": True},
        ),
    ],
)
def test_trl_is_asked_for_the_losses_that_it_has(fields: dict[str, Any], stock: dict[str, Any] | None) -> None:
    found = trl_fields(TypeAdapter(LossSettings).validate_python(fields))
    assert found is None if stock is None else found is not None and stock.items() <= found.items()


def test_a_user_function_stands_for_loss_and_scratch_alike() -> None:
    built = Objective(
        Formula(
            {
                "simpo": Member(simpo, simpo, {"beta": 2.0, "gamma": 1.0}),
                "hinge": Member(hinge, hinge, {"beta": 0.1}, 0.5),
            }
        )
    )
    pair = record(2.0, -1.0)
    assert built(pair).item() == pytest.approx(built.from_scratch(pair).item(), abs=1e-6)
