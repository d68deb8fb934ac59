"""Where stock TRL departs from itself by type, batch or cache: entries of docs/trl_differences.md, by their numbers.

A test that fails after an upgrade says that the entry is no longer true.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from preftune.losses import rewards
from preftune.losses.logps import PairLogps
from tests import stock
from tests.parity import sides
from tests.parity.cells import DIVERGENCES, LD_ALPHAS, Cell
from tests.parity.grid import wide_outputs
from tests.parity.stock_loss import LENGTHS, Stock, nats, ours_at
from tests.parity.trainers import PAIRS, PARTS, TEXTS, part, policy, set_to, stock_trainer

ALL = len(LENGTHS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.save_model(tmp_path_factory.mktemp("differences"), stock.CHATML, dtype=torch.float32)


@pytest.fixture
def trainer(model: Path) -> DPOTrainer:
    return stock_trainer(model, "lora", precomputed=False, use_weighting=True)


def of_parts(trainer: DPOTrainer, cell: Cell, accumulation: int) -> tuple[float, float]:
    """Return TRL's loss of the eight pairs and the norm of its gradient, over this many micro-batches."""
    parts = []
    for places in PARTS[accumulation]:
        batch = part(trainer, places)
        outputs = sides.forward(trainer.model, batch)
        jacobian = sides.jacobian(outputs.log_probs[sides.completion(batch)], trainer.model)
        parts.append((sides.of_trl(trainer, outputs, batch, [cell]), jacobian))
    found = sides.side(parts)
    return found.losses.item(), found.gradients().norm().item()


@pytest.mark.parametrize(
    ("weights", "losses", "norms"),
    [
        ({"sigmoid": 1.0}, (0.680128, 0.680128), (0.41939, 0.41939)),
        ({"ipo": 1.0}, (2.546163, 2.546163), (3.47731, 3.47731)),
        # micro-batches of 5, 8, 5 and 5 tokens of chosen weigh alike, where in the whole each token does
        ({"sft": 1.0}, (6.000480, 6.000907), (0.92874, 0.93305)),
        ({"sigmoid": 1.0, "sft": 1.0}, (6.680607, 6.681035), (1.23165, 1.22312)),
        ({"aot": 1.0}, (0.683338, 0.683344), (0.33735, 0.33741)),
        ({"aot_unpaired": 1.0}, (0.680912, 0.683344), (0.33249, 0.33741)),
    ],
)
def test_losses_over_tokens_and_over_sorted_pairs_move_with_the_accumulation(
    trainer: DPOTrainer, weights: dict[str, float], losses: tuple[float, float], norms: tuple[float, float]
) -> None:
    found = [of_parts(trainer, Cell(weights), accumulation) for accumulation in (1, 4)]
    assert [loss for loss, _ in found] == pytest.approx(losses, abs=3e-6)
    assert [norm for _, norm in found] == pytest.approx(norms, abs=2e-5)


def test_trl_takes_a_divergence_and_ld_alpha_with_sft_and_neither_does_anything(trainer: DPOTrainer) -> None:
    batch = part(trainer, range(PAIRS))
    outputs = sides.forward(trainer.model, batch)
    cells = [Cell({"sft": 1.0}, divergence, ld_alpha) for divergence in DIVERGENCES for ld_alpha in LD_ALPHAS]
    assert len(cells) == 10
    (loss,) = {loss for loss, _ in sides.of_trl(trainer, outputs, batch, cells)}
    assert loss == pytest.approx(6.00048, abs=1e-5)


def wide_batch(trainer: DPOTrainer) -> tuple[object, sides.Batch]:
    """Return outputs in float64 and a batch whose reference makes every log-ratio 0."""
    batch = part(trainer, range(PAIRS))
    trainer.model.double()
    outputs = sides.at_leaf(wide_outputs(trainer.model, batch))
    chosen, rejected = outputs.log_probs.detach().sum(dim=1).chunk(2)
    trainer.precompute_ref_logps = True
    return outputs, {**batch, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


def test_the_fused_head_of_trl_gives_float32_for_a_model_in_float64(trainer: DPOTrainer) -> None:
    outputs, batch = wide_batch(trainer)
    fused = sides.forward(trainer.model, batch).log_probs
    assert fused.dtype == torch.float32
    assert 1e-7 < (fused.double() - outputs.log_probs).abs().max().item() < 2e-6  # type: ignore[attr-defined]


@pytest.mark.parametrize("divergence", DIVERGENCES[3:])
def test_the_alpha_divergence_of_trl_does_not_know_float64(trainer: DPOTrainer, divergence: dict[str, object]) -> None:
    outputs, batch = wide_batch(trainer)
    with (
        set_to(trainer, Cell({"sigmoid": 1.0}, divergence).of_trl()),
        pytest.raises(KeyError, match=r"^torch\.float64$"),
    ):
        trainer.compute_loss(lambda **_: outputs, batch)
    zero = torch.zeros(1, dtype=torch.float64)
    score = rewards.divergent(PairLogps(zero + 1, zero, zero, zero), **divergence).policy_chosen  # type: ignore[arg-type]
    power = divergence["f_alpha_divergence_coef"] - 1  # type: ignore[operator]
    assert score.item() == pytest.approx((math.exp(power) - 1) / power, abs=1e-12)


def test_trl_takes_the_logarithms_of_the_smoothing_of_exo_in_float32(trainer: DPOTrainer) -> None:
    outputs, batch = wide_batch(trainer)
    with set_to(trainer, Cell({"exo_pair": 1.0}).of_trl()):
        value = trainer.compute_loss(lambda **_: outputs, batch).item()
    # at the reference, with smoothing 0.05: log(1/2) - (log 0.95 + log 0.05) / 2 = 0.83036560341
    exact = math.log(0.5) - (math.log(0.95) + math.log(0.05)) / 2
    assert value - exact == pytest.approx(1.7185e-8, rel=1e-3)
    zero = torch.zeros(1, dtype=torch.float64)
    ours, _ = ours_at("exo_pair", {"beta": 0.3, "label_smoothing": 0.05}, PairLogps(zero, zero, zero, zero, zero, zero))
    assert ours.item() == pytest.approx(exact, abs=1e-12)


def forward_kl(stock_loss: Stock, chosen: float, rejected: float) -> tuple[float, Tensor, Tensor, Tensor]:
    """Return loss and gradient under forward KL by TRL, then costs and gradient by ours."""
    fields = {"f_divergence_type": "forward_kl"}
    given = nats(*[chosen] * ALL), nats(*[rejected] * ALL)
    value, gradient, record = stock_loss("sigmoid", beta=0.1, **fields)(*given)
    costs, slopes = ours_at("sigmoid", {"beta": 0.1}, record, lambda pairs: rewards.divergent(pairs, **fields))  # type: ignore[arg-type]
    return value, gradient, costs, slopes


def test_a_rejected_answer_far_below_its_reference_costs_nothing_and_has_no_number_for_a_gradient_in_trl(
    stock_loss: Stock,
) -> None:
    near = forward_kl(stock_loss, 0.0, -88.0)
    assert near[0] == 0.0
    assert bool((near[1] == 0).all())
    value, gradient, costs, slopes = forward_kl(stock_loss, 0.0, -89.0)  # e^89 is infinite in float32
    assert value == 0.0
    assert bool(gradient[1].isnan().all())
    assert bool((costs == 0).all())
    assert bool((slopes == 0).all())


def test_forward_kl_of_trl_is_infinite_for_a_chosen_answer_beyond_89_nats(stock_loss: Stock) -> None:
    value, gradient, costs, slopes = forward_kl(stock_loss, -89.0, 0.0)
    assert value == math.inf
    assert bool(gradient[0].isnan().all())
    # 0.1 e^80 = 5.54e33; an exponent beyond 80 has no gradient
    torch.testing.assert_close(costs, torch.full((ALL,), 0.1 * math.exp(80)), rtol=1e-6, atol=0)
    assert bool((slopes[0] == 0).all())


def test_the_bco_of_trl_has_no_shift(stock_loss: Stock) -> None:
    # rewards 2 and 1: log(1 + e^-2) + log(1 + e) = 1.440190; with their mean as shift 2 log(1 + e^-0.5) = 0.948154
    value, _, record = stock_loss("bco_pair", beta=0.1)(nats(*[20.0] * ALL), nats(*[10.0] * ALL))
    assert value == pytest.approx(1.440190, abs=1e-5)
    assert 2 * math.log1p(math.exp(-0.5)) == pytest.approx(0.948154, abs=1e-6)
    assert ours_at("bco_pair", {"beta": 0.1}, record)[0].mean().item() == pytest.approx(value, abs=1e-6)


def test_a_weight_of_wpo_may_be_above_one_and_the_weights_are_not_divided_by_their_sum(stock_loss: Stock) -> None:
    zero = nats(*[0.0] * ALL)
    value, gradient, _ = stock_loss("sigmoid", beta=0.1, use_weighting=True)(zero, zero)
    weights = gradient[1] / 0.05  # at the reference each pair has a gradient of beta / 2 times its weight
    assert value == pytest.approx(math.log(2) * weights.mean().item(), abs=1e-5)
    assert value == pytest.approx(0.66421, abs=1e-4)
    assert [weights.min().item(), weights.max().item()] == pytest.approx([0.6852, 1.0711], abs=1e-3)


def test_a_precomputed_reference_of_trl_goes_stale_with_ld_alpha_where_no_length_is_set(model: Path) -> None:
    file = model / "rows.jsonl"
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in TEXTS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data, tokenizer = Dataset.from_json(str(file), cache_dir=str(model / "cache")), stock.tokenizer(stock.CHATML)

    def first_loss(max_length: int | None, ld_alpha: float | None) -> float:
        arguments = DPOConfig(
            output_dir=str(model / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            remove_unused_columns=False, precompute_ref_log_probs=True, beta=0.3, max_length=max_length,
            ld_alpha=ld_alpha,
        )  # fmt: skip
        made = DPOTrainer(model=policy(model, "full"), args=arguments, train_dataset=data, processing_class=tokenizer)
        return made.compute_loss(made.model, part(made, range(PAIRS))).item()  # type: ignore[no-any-return]

    assert first_loss(None, None) == pytest.approx(math.log(2), abs=1e-5)
    assert first_loss(None, 0.5) == pytest.approx(1.12393, abs=1e-4)
    assert first_loss(1024, None) == pytest.approx(math.log(2), abs=1e-5)
    assert first_loss(1024, 0.5) == pytest.approx(math.log(2), abs=1e-5)
