"""Every parameter in conf/loss changes the loss, or is refused."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from preftune import config
from preftune.losses import kto
from preftune.losses.answers import AnswerLogps
from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal, refuse_all
from preftune.training.loss_settings import KtoSettings
from preftune.training.objectives import build_objective
from tests.losses import random_record

CONF = Path(__file__).parent.parent / "conf"
NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
NEEDED = {"kto": ["method=kto"], "custom": ["loss.name=tests.test_conf_losses.own", "+loss.params.beta=0.3"]}
# For what a file leaves out, or chooses by name: other values, of which at least one must do something.
OTHERS: dict[str, list[Any]] = {
    "ld_alpha": [0.5],
    "f_divergence_type": ["forward_kl", "js_divergence"],
    "f_alpha_divergence_coef": [0.5],
    "use_weighting": [True],
    "terms": [{"nll": {"weight": 0.3}}],
}


def own(logps: PairLogps, *, beta: float) -> Tensor:
    return -beta * logps.margin()


def values(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("run", [f"loss={name}", *NEEDED.get(name, [])])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def changes(loss: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each parameter with the settings in which it alone is another."""
    for key, value in loss.items():
        if key == "name":
            continue
        for other in OTHERS.get(key, []) if key in OTHERS else _others(value):
            yield key, {**loss, key: other}


def _others(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: other} for other in _others(inner))
    else:
        yield 1.5 * value if value else 0.1


def cost(run: config.Config) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(run.loss, KtoSettings):
        numbers = [-40 * torch.rand(8, generator=generator, dtype=torch.float64) for _ in range(4)]
        lengths = torch.arange(1, 9), torch.arange(3, 11)
        record = AnswerLogps(torch.arange(8) % 3 > 0, *numbers, *lengths)
        return partial(kto.kto, **run.loss.parameters())(record)
    torch.manual_seed(0)
    objective = build_objective(run.loss)
    logps = random_record(8)
    logps = replace(logps, running={"margin": logps.margin().mean().item() - 1.0})
    if not objective.traits.per_pair:
        logps.extras.pop("weight")  # type: ignore[attr-defined]
    return objective(logps)


def cost_or_fault(run: dict[str, Any]) -> Tensor | str:
    try:
        refuse_all(config.faults(run))
        return cost(config.Config.model_validate(run))
    except Refusal as refusal:
        return str(refusal)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_a_loss_changes_it_or_is_refused(name: str) -> None:
    plain = values(name)
    before = cost(config.Config.model_validate(plain))
    refused, acted = set(), set()
    for key, changed in changes(plain["loss"]):
        after = cost_or_fault({**plain, "loss": changed})
        if isinstance(after, str):
            assert after.startswith(f"loss.{key} must be ")
            refused.add(key)
            continue
        assert not torch.allclose(after, before), f"loss.{key} does nothing in {name} at {changed[key]}"
        acted.add(key)
    assert acted | refused == plain["loss"].keys() - {"name"}
    # the coefficient has no effect without its divergence; the costs of aot belong to no pair that could be weighed
    assert refused <= {"f_alpha_divergence_coef", *(["use_weighting"] if name.startswith("aot") else [])}


def test_there_are_as_many_losses_to_walk_as_there_are_files() -> None:
    assert len(NAMES) == 29
