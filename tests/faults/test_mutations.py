"""Deliberate faults, one by one, each caught by the alarm that should catch it.

The alarms: `scratch` holds every objective against its from-scratch side, in value and gradient; `parity` holds losses,
token ids and batches against stock TRL; `run` is the check of a run's own micro-batches, which ends the run; `engine`
holds the shared pass against stock TRL: the comparison before the first step, and the weights after a whole one.

What none of them can see, since both of the sides that they compare are told the same:

- Which pairs come, in which order, and how often: the check looks at the batch that came. A row whose chosen and
  rejected answers stand in the wrong columns of the file is trained as it stands.
- Which reference was meant: where a run keeps a copy of the adapter that it should start from the base without, the
  check computes the reference through that copy, too.
- What the batch says of itself: the check believes its ids, labels and completion mask, which are TRL's collator's. A
  prompt counted there is caught by parity and by nothing in a run. Numbers of streamed pairs are believed, too.
- The gradient where dropout is drawn at random, or where there are several processes: it is not compared there.
- What moves between steps (the multipliers of terms, running averages): the from-scratch side is given them. Their own
  tests hold them.
- What happens after the gradient: clipping, the optimizer, the schedule, accumulation beyond a step's first
  micro-batch.
- A user's own loss that differs from what its author meant: it is its own from-scratch side.
- A fault smaller than the tolerance of the type: in bfloat16 an error of 0.04 nats per token passes.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AttentionInterface
from trl.trainer.dpo_trainer import DataCollatorForPreference

from preftune.engine import attention
from preftune.losses import kto, rewards, scratch_kto
from preftune.losses.answers import AnswerLogps
from preftune.losses.catalogue import LOSSES, SCRATCH
from preftune.losses.logps import PairLogps
from preftune.losses.objective import Formula, Member, Objective, Term
from preftune.losses.scratch_terms import SCRATCH_TERMS
from preftune.losses.terms import TERMS
from preftune.models.settings import FullSettings
from preftune.refusals import RunFailed
from preftune.tokens.answers import mismatched
from preftune.tokens.encoding import Encoder
from preftune.training import trainer
from preftune.training.loss_settings import LossSettings
from preftune.training.methods import build_trainer
from preftune.training.preparation import Prepared, prepare
from preftune.training.settings import TrainSettings
from tests import engine_runs, stock
from tests.faults.mutations import MUTATIONS, Mutation, planted
from tests.losses import PARAMETERS, random_record, with_tokens
from tests.parity import test_kto as stock_kto
from tests.parity.cases import ANSWERS, from_stock
from tests.parity.families import chat
from tests.parity.stock_loss import ROWS, nats, ours_at, stock_losses
from tests.test_trainer import TRAIN

# Gives the names of what disagrees, or what a run says as it ends; nothing where all is well.
Alarm = Callable[[str], str]


def member(name: str, **changes: Any) -> Member:
    return Member(LOSSES[name], SCRATCH[name], PARAMETERS[name], **changes)


FORMULAS = {
    **{name: Formula({name: member(name)}) for name in PARAMETERS},
    "sum": Formula({"sigmoid": member("sigmoid", weight=0.7), "ipo": member("ipo", weight=0.2)}),
    "ld_alpha": Formula({"sigmoid": member("sigmoid", ld_alpha=0.3)}),
    "wpo": Formula({"sigmoid": member("sigmoid")}, use_weighting=True),
    "terms": Formula(
        {"sigmoid": member("sigmoid")},
        {
            "nll": Term(TERMS["nll"], SCRATCH_TERMS["nll"], weight=0.5),
            "length": Term(TERMS["length"], SCRATCH_TERMS["length"], weight=0.4, limit=1.0),
            "kl": Term(TERMS["kl"], SCRATCH_TERMS["kl"], weight=0.3, limit=1.0, rate=0.1),
        },
    ),
    **{
        kind: Formula({"sigmoid": member("sigmoid", divergence={"f_divergence_type": kind})})
        for kind in ("forward_kl", "js_divergence", "alpha_divergence")
    },
}


def scratch(on: str) -> str:
    """Name the objectives, or the one asked for, that differ from their from-scratch side on random records."""
    found = []
    for name in [on] if on in FORMULAS else FORMULAS:
        objective = Objective(FORMULAS[name])
        record, leaves = followed(with_weight=objective.traits.per_pair)
        if differ(*(costs_and_slopes(cost(record), leaves) for cost in (objective, objective.from_scratch))):
            found.append(name)
    answers, leaves = followed_answers()
    parameters = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.4}
    sides = (costs_and_slopes(cost(answers, **parameters), leaves) for cost in (kto.kto, scratch_kto.kto))
    return " ".join(found + ["kto"] * differ(*sides))


def followed(*, with_weight: bool) -> tuple[PairLogps, list[Tensor]]:
    """Return random pairs, and what of them the gradient of a loss may reach."""
    torch.manual_seed(0)
    drawn = random_record(60)
    policy = [side.requires_grad_() for side in (drawn.policy_chosen, drawn.policy_rejected)]
    extras = {name: values for name, values in drawn.extras.items() if with_weight or name != "weight"}
    drawn = with_tokens(dataclasses.replace(drawn, extras=extras))
    kl = [side.kl.requires_grad_() for side in drawn.tokens() if side.kl is not None]
    return drawn, policy + kl


def followed_answers() -> tuple[AnswerLogps, list[Tensor]]:
    """The same of single answers, to whose mismatched ones no gradient may reach."""
    numbers = torch.randn(4, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6
    leaves = [numbers[0].requires_grad_(), (numbers[1].detach() + 3).requires_grad_()]
    lengths = torch.ones(40)
    desirable = torch.arange(40) % 3 == 0
    references = numbers[2].detach(), numbers[3].detach()
    return AnswerLogps(desirable, leaves[0], references[0], leaves[1], references[1], lengths, lengths), leaves


def costs_and_slopes(costs: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    slopes = torch.autograd.grad(costs.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [costs.detach(), *slopes]


def differ(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-6, atol: float = 1e-9) -> bool:
    return not all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in zip(ours, theirs, strict=True))


BESIDE_TRL: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("sigmoid", {"beta": 0.1}),
    "ipo": ("ipo", {"beta": 0.1}),
    "sigmoid_norm": ("sigmoid_norm", {"beta": 5.0}),
    "bco_pair": ("bco_pair", {"beta": 0.1}),
    "apo_down": ("apo_down", {"beta": 0.1}),
    "alpha_divergence": ("sigmoid", {"beta": 0.1}),
}
DIVERGENCE: dict[str, Any] = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Alarm:
    """Name what differs from stock TRL: losses on the same forward pass, ids of pairs, batches."""
    path = stock.save_model(tmp_path_factory.mktemp("model"), stock.CHATML, dtype=torch.float32)
    build, family = stock_losses(path), chat("chatml")
    pairs = ANSWERS[:2]
    stock_ids = from_stock(family, pairs)
    moved = nats(0.0, 1.5, -4.0, 2.0, -0.3, 3.0), nats(0.0, -2.0, 3.0, 1.0, -0.7, -2.0)
    stock_values = {
        name: build(loss, **parameters, **(DIVERGENCE if name == "alpha_divergence" else {}))(*moved)
        for name, (loss, parameters) in BESIDE_TRL.items()
    }
    single = stock_kto.build.__wrapped__(tmp_path_factory)  # type: ignore[attr-defined]
    value, slope, answers = stock_kto.stock_loss(single(beta=0.1), nats(-4.0, -1.0, -1.0, -2.0, -8.0, 1.0))
    others = single(batch=6).train_dataset
    texts = others["completion_ids"][:]

    def differences(_: str) -> str:
        found = []
        for name, (mean, slopes, record) in stock_values.items():
            changes = [partial(rewards.divergent, **DIVERGENCE)] if name == "alpha_divergence" else []
            costs, ours = ours_at(*BESIDE_TRL[name], record, *changes)
            if differ([costs.mean(), ours], [torch.tensor(mean), slopes], rtol=1e-5, atol=1e-5):
                found.append(name)
        leaf = answers.policy.detach().clone().requires_grad_()
        costs, ours = costs_and_slopes(kto.kto(dataclasses.replace(answers, policy=leaf), beta=0.1), [leaf])
        if differ([costs.mean(), ours], [torch.tensor(value), slope], rtol=1e-5, atol=1e-5):
            found.append("kto")
        if list(Encoder(family).pairs(pairs)) != stock_ids:
            found.append("ids")
        if others["KL_completion_ids"][:] != [texts[place] for place in mismatched(np.arange(6), 6)]:
            found.append("mismatched")
        if not same_batch():
            found.append("batch")
        return " ".join(found)

    return differences


def same_batch() -> bool:
    """True where a batch of ours is that of TRL, with the places of its rows."""
    ours = trainer._Collator(0, None)([{**row, "row": place} for place, row in enumerate(ROWS)])
    theirs = DataCollatorForPreference(pad_token_id=0)(ROWS)
    theirs["row"] = torch.arange(len(ROWS))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A run that ends after a step or two.

    `moved` starts it at a policy that is not its reference: with an adapter whose second factor is drawn of that width.
    """

    loss: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "sigmoid", "label_smoothing": 0.0})
    moved: float = 1.0
    adapter: Any = dataclasses.field(default_factory=stock.lora)
    verify: str = "first_batch"
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    engine: str = "trl"
    attention: str = "sdpa"


_WPO = {"name": "sigmoid", "label_smoothing": 0.0, "use_weighting": True}
_TDPO = {"name": "tdpo", "alpha": 2.0}
SCENES = {
    "start": Scene(moved=0.0),
    "moved": Scene(),
    "ipo": Scene({"name": "ipo"}),
    "ld_alpha": Scene({"name": "sigmoid", "label_smoothing": 0.0, "ld_alpha": 0.3}),
    "wpo": Scene(_WPO),
    "tdpo": Scene(_TDPO, moved=5.0),
    "soft": Scene({"name": "soft"}),
    "accumulated": Scene(moved=0.0),
    "dropout": Scene(adapter=stock.lora(dropout=0.5), train={"disable_dropout": False}),
    "full": Scene(moved=0.0, adapter=FullSettings(name="full"), verify="every_1", train={"max_steps": 2}),
    "kto": Scene({"name": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.0}),
    "shared": Scene(engine="shared"),
    "shared full": Scene(moved=0.0, adapter=FullSettings(name="full"), engine="shared"),
    "shared wpo": Scene(_WPO, engine="shared"),
    "shared tdpo": Scene(_TDPO, moved=5.0, engine="shared"),
    "masked": Scene(engine="shared", attention="eager"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Alarm:
    """Train a model of one layer and return why the run ended before its time."""
    directory = tmp_path_factory.mktemp("runs")
    path = stock.save_model(directory / "model", stock.CHATML, layers=1)
    file = directory / "pairs.jsonl"
    rows = [
        {"prompt": list(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected, "p": (0.5 + place) / 22}
        for place, pair in enumerate(stock.pairs(22))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    @cache
    def prepared(name: str) -> tuple[Prepared, TrainSettings, LossSettings]:
        scene = SCENES[name]
        small = {"max_steps": 1, "global_batch_size": 4 if name in ("accumulated", "kto") else 2}
        recipe = TrainSettings.model_validate(TRAIN | small | {"per_device_train_batch_size": 2} | scene.train)
        loss = TypeAdapter(LossSettings).validate_python({"beta": 0.3, **scene.loss})
        carried = {"extras": {"probability": "p"}} if name == "soft" else {}
        data = stock.data_settings(file, test_size=6, **carried)
        model = stock.model_settings(path, attention=scene.attention)
        made = prepare(model, data, scene.adapter, recipe, loss, 0)
        if scene.moved:
            move(made.policy, scene.moved)
        return made, recipe, loss

    def ended(name: str) -> str:
        ready, recipe, loss = prepared(name)
        alone = dataclasses.replace(ready, policy=copy.deepcopy(ready.policy))
        trains = build_trainer(alone, recipe, loss, "base", SCENES[name].engine, SCENES[name].verify, 0, directory)
        try:
            trains.train()
        except RunFailed as failed:
            return str(failed)
        assert trains.verified is not None
        return ""

    return ended


@torch.no_grad()
def move(policy: torch.nn.Module, width: float) -> None:
    torch.manual_seed(3)
    for name, parameter in policy.named_parameters():
        if ".lora_B.default." in name:
            parameter.normal_(std=width)


@pytest.fixture(scope="module")
def engine() -> Alarm:
    """Name what the shared pass does otherwise than stock TRL: the first batch, the weights after a step of parts."""
    step: dict[str, Any] = {"verify": "off", "max_steps": 1}
    expected = engine_runs.run("trl", **step).movement

    def differences(on: str) -> str:
        found = []
        if on in ("", "auto") and engine_runs.build("auto").engine.name != "shared":
            found.append("auto")
        if on in ("", "step"):
            got = engine_runs.run("shared", tokens_per_batch=200, **step).movement  # parts of 3 pairs and of 2
            found += ["step"] * bool((got - expected).norm() > 1e-3 * expected.norm())
        return " ".join(found)

    return differences


@pytest.fixture(autouse=True)
def own_attention() -> Iterator[None]:
    """Let transformers know the attention that is ours again: a module with a fault announces that."""
    yield
    AttentionInterface.register(attention.NAME, attention.attend)


@pytest.fixture
def alarms(parity: Alarm, run: Alarm, engine: Alarm) -> dict[str, Alarm]:
    return {"scratch": scratch, "parity": parity, "run": run, "engine": engine}


def test_without_a_fault_no_alarm_is_raised(alarms: dict[str, Alarm]) -> None:
    assert scratch("") == ""
    assert alarms["parity"]("") == ""
    assert alarms["engine"]("") == ""
    for name in SCENES:
        assert alarms["run"](name) == "", name


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.alarm}: {each.name}")
def test_a_deliberate_fault_is_caught(alarms: dict[str, Alarm], mutation: Mutation) -> None:
    alarm = alarms[mutation.alarm]
    with planted(mutation.module, mutation.text, mutation.replacement):
        said = alarm(mutation.on)
    if mutation.alarm == "run":
        assert said.startswith(mutation.says), said or "nothing was said"
    else:
        assert mutation.says in said.split(), said or "nothing differed"


def test_the_faults_are_many_and_try_every_alarm() -> None:
    assert len(MUTATIONS) >= 50
    assert {each.alarm for each in MUTATIONS} == {"scratch", "parity", "run", "engine"}
    assert len({(each.module, each.name) for each in MUTATIONS}) == len(MUTATIONS)
