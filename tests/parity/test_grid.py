"""Every loss that TRL can be set to: stock TRL, ours and from scratch, for every way to hold the weights.

In float32 TRL and ours agree within 1e-6, as a share of what is above 1. The from-scratch side sends each sequence
through the model alone, so that its log-probabilities round otherwise, which moves a gradient by a few 1e-6. In float64
all three agree within 1e-10, a gradient as a share of its largest entry.
"""

import itertools

import pytest
import torch

from preftune.training.objectives import trl_fields
from tests import stock
from tests.parity import sides
from tests.parity.cells import (
    ALLOWED,
    BROKEN,
    CELLS,
    DIVERGENCES,
    LD_ALPHAS,
    OF_EACH_ANSWER,
    OF_THE_MARGIN,
    SORTED,
    SUMS,
)
from tests.parity.grid import WIDE, Grid, WideGrid, apart
from tests.parity.trainers import KINDS, PAIRS, PARTS, part, set_to

LANES = [(kind, precomputed, count) for kind, precomputed, count in itertools.product(KINDS, (False, True), PARTS)]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(stock.save_model(tmp_path_factory.mktemp("grid"), stock.CHATML, dtype=torch.float32))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> WideGrid:
    return WideGrid(stock.save_model(tmp_path_factory.mktemp("wide"), stock.CHATML, dtype=torch.float32))


def test_the_grid_holds_every_choice_that_trl_allows() -> None:
    of_the_margin = len(OF_THE_MARGIN) * len(DIVERGENCES) * len(LD_ALPHAS) * 2
    of_each_answer = len(OF_EACH_ANSWER) * len(LD_ALPHAS) * 2
    without_weighting = (len(SORTED) + len(SUMS)) * len(LD_ALPHAS)
    assert of_the_margin + of_each_answer + without_weighting == len(ALLOWED) == len(set(map(str, ALLOWED))) == 188
    assert len(BROKEN) == 2 * len(DIVERGENCES) * len(LD_ALPHAS) == 20
    assert len(CELLS) == 168
    assert len(WIDE) == 100
    assert len(LANES) == 12


def test_the_batch_is_ragged_with_answers_of_one_token_and_a_policy_off_its_reference(grid: Grid) -> None:
    (batch,) = grid.batches("lora", 1)
    chosen, rejected = batch["completion_mask"].sum(dim=1).chunk(2)
    assert len(chosen) == PAIRS
    assert {(bool(w == 1), bool(y == 1)) for w, y in zip(chosen, rejected, strict=True)} == {
        (True, True), (True, False), (False, True), (False, False)
    }  # fmt: skip
    assert bool((batch["attention_mask"] == 0).any())
    for kind in KINDS:
        record, _ = sides.our_record(grid.ours(kind), batch)
        assert record.margin().abs().max().item() > 0.5


@pytest.mark.parametrize(("kind", "precomputed", "accumulation"), LANES)
def test_ours_equals_trl_in_float32(grid: Grid, kind: str, precomputed: bool, accumulation: int) -> None:
    theirs, ours = grid.of_trl(kind, precomputed, accumulation), grid.of_ours(kind, accumulation)
    assert len(theirs.losses) == len(CELLS)
    found = apart(ours, theirs, CELLS, least=1.0)
    assert max(found.values())[0] < 1e-6, found
    assert bool((theirs.gradients().abs().amax(dim=1) > 1e-2).all())


@pytest.mark.parametrize("accumulation", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_from_scratch_losses_equal_both_on_the_same_log_probabilities_in_float32(
    grid: Grid, kind: str, accumulation: int
) -> None:
    scratch = grid.of_scratch_losses(kind, accumulation)
    for other in (grid.of_ours(kind, accumulation), grid.of_trl(kind, False, accumulation)):
        found = apart(other, scratch, CELLS, least=1.0)
        assert found["loss"][0] < 1e-6, found
        assert found["gradient"][0] < 2e-6, found  # they compute in float64, and show what float32 itself rounds


@pytest.mark.parametrize("accumulation", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_scratch_equals_both_in_float32(grid: Grid, kind: str, accumulation: int) -> None:
    alone = grid.from_scratch(kind, accumulation)
    for other in (grid.of_ours(kind, accumulation), grid.of_trl(kind, False, accumulation)):
        found = apart(other, alone, CELLS, least=1.0)
        assert found["loss"][0] < 1e-6, found
        assert found["gradient"][0] < 5e-6, found


@pytest.mark.parametrize("accumulation", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_three_are_equal_in_float64(wide: WideGrid, kind: str, accumulation: int) -> None:
    alone = wide.from_scratch(kind, accumulation)
    for other in (wide.of_ours(kind, accumulation), wide.of_trl(kind, True, accumulation)):
        assert other.losses.dtype == other.slopes.dtype == other.jacobian.dtype == torch.float64
        assert len(other.losses) == len(WIDE)
        found = apart(other, alone, WIDE, least=0.0)
        assert max(found.values())[0] < 1e-10, found


def test_the_gradient_depends_on_how_pairs_fall_into_micro_batches_where_a_loss_declares_it_and_nowhere_else(
    wide: WideGrid,
) -> None:
    whole, parts = wide.of_trl("lora", True, 1).gradients(), wide.of_trl("lora", True, 4).gradients()
    moved = (whole - parts).abs().amax(dim=1) / whole.abs().amax(dim=1)
    assert len(WIDE) == len(wide.objectives) == 100
    for cell, objective, share in zip(WIDE, wide.objectives, moved.tolist(), strict=True):
        assert share < 1e-10 if objective.traits.accumulates else share > 1e-3, (str(cell), share)
    assert sum(not objective.traits.accumulates for objective in wide.objectives) == 14


@pytest.mark.parametrize("accumulation", PARTS)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_training_step_leaves_the_gradient_of_the_grid(grid: Grid, kind: str, accumulation: int) -> None:
    theirs, ours = grid.stock(kind), grid.ours(kind)
    expected = grid.of_trl(kind, False, accumulation).gradients()
    ours.starts_at_reference = False
    chosen = [place for place, cell in enumerate(CELLS) if not cell.divergence and cell.ld_alpha is None]
    chosen = [place for place in chosen if not CELLS[place].use_weighting]
    assert len(chosen) == 17
    for place in chosen:
        ours.objective = grid.objectives[place]
        with set_to(theirs, CELLS[place].of_trl()):
            for trainer in (theirs, ours):
                trainer.current_gradient_accumulation_steps = accumulation
                trainer.model.zero_grad()
                if trainer is ours:  # it parts a whole step itself
                    ours.micro_batch = PAIRS // accumulation
                    ours.training_step(ours.model, {**part(theirs, range(PAIRS)), "row": torch.arange(PAIRS)})
                else:
                    for places in PARTS[accumulation]:
                        theirs.training_step(theirs.model, part(theirs, places))
                trained = [p for p in trainer.model.parameters() if p.requires_grad]
                got = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
                difference = (got - expected[place]).abs().max() / expected[place].abs().max().clamp(min=1)
                assert difference.item() < 1e-6, (type(trainer).__name__, str(CELLS[place]))


def test_the_fields_that_a_run_hands_to_trl_give_the_loss_of_the_cell(grid: Grid) -> None:
    (batch,) = grid.batches("full", 1)
    trainer, expected = grid.stock("full"), grid.of_trl("full", False, 1)
    outputs = sides.forward(trainer.model, batch)
    for cell, loss in zip(CELLS, expected.losses.tolist(), strict=True):
        fields = trl_fields(cell.of_ours())
        assert fields is not None
        fields["discopop_tau"] = fields.pop("tau", 0.0)
        with set_to(trainer, fields), torch.no_grad():
            assert trainer.compute_loss(lambda **_: outputs, batch).item() == loss, str(cell)
