"""The reference is computed once: what is kept equals what the model gives, and is not trusted blindly."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.models.policy import save_policy
from preftune.models.settings import FullSettings
from preftune.refusals import RunFailed
from preftune.training.reference_keys import row_digests
from preftune.training.reference_store import ReferenceStore
from preftune.training.trainer import PairTrainer
from tests import stock
from tests.test_trainer import Make, make  # noqa: F401  a fixture

WORD = {"dtype": "float32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scored(trainer: PairTrainer) -> int:
    """Let a trainer keep its reference; return how many pairs it scored for that."""
    rows: list[int] = []
    score = trainer._reference_of

    def counted(batch: Any) -> tuple[Tensor, Tensor]:
        rows.extend(row["row"] for row in batch)
        return score(batch)

    trainer._reference_of = counted  # type: ignore[method-assign]
    trainer.keep_reference()
    return len(rows)


def stores(cache: Path) -> list[ReferenceStore]:
    return [ReferenceStore(path) for path in (cache / "reference").iterdir() if path.is_dir()]


def batch(trainer: PairTrainer) -> dict[str, Tensor]:
    rows = trainer.prepared.rows.rows.select([5, 0, 3])
    found: dict[str, Tensor] = trainer._prepare_inputs(trainer.data_collator(list(rows)))
    return found


@pytest.mark.parametrize("adapter", [stock.lora(), FullSettings(name="full")], ids=["lora", "full"])
@pytest.mark.parametrize("engine", ["shared", "auto"])
def test_what_is_kept_is_what_the_reference_gives(make: Make, adapter: Any, engine: str) -> None:  # noqa: F811
    trainer = make(adapter=adapter, engine=engine, model=WORD)
    inputs = batch(trainer)
    live = trainer._score(trainer.model, inputs, "train")[0]
    trainer.keep_reference()
    kept = trainer._score(trainer.model, inputs, "train")[0]
    torch.testing.assert_close(kept.reference_chosen, live.reference_chosen.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.reference_rejected, live.reference_rejected.detach(), rtol=1e-5, atol=1e-5)


def test_another_beta_rate_rank_seed_and_loss_score_four_pairs_of_each_split_and_no_more(
    make: Make,  # noqa: F811
    own_cache: Path,
) -> None:
    assert scored(make(model=WORD)) == 22
    others: list[dict[str, Any]] = [
        {"parameters": {"beta": 0.5}},
        {"learning_rate": 5e-3, "adapter": stock.lora(r=2)},
        {"loss": "ipo"},
    ]
    for other in others:
        assert scored(make(model=WORD, **other)) == 8
    assert [len(store) for store in stores(own_cache)] == [22]


def test_training_on_what_is_kept_gives_the_weights_of_a_reference_in_the_loop(make: Make) -> None:  # noqa: F811
    kept, live = make(model=WORD, max_steps=3), make(model=WORD, max_steps=3)
    kept.keep_reference()
    for trainer in (kept, live):
        trainer.train()
    for one, other in zip(kept.model.parameters(), live.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert kept.evaluate()["eval_loss"] == pytest.approx(live.evaluate()["eval_loss"], abs=1e-5)


def test_numbers_of_other_weights_under_the_same_key_are_found_out_and_replaced(
    make: Make,  # noqa: F811
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = make(model=WORD)
    first.keep_reference()
    [store] = stores(own_cache)
    digests = row_digests(first.prepared.rows.rows)
    places = store.find(digests)
    lengths = np.array([store.lengths(place) for place in places])
    values = np.concatenate([store.values(place) for place in places])
    store.discard()
    store.add(digests, values - np.float32(0.01), lengths)
    capsys.readouterr()
    trainer = make(model=WORD)
    assert scored(trainer) > len(places)
    assert "the reference's kept log-probabilities differ from those of its weights by 0.01 nats a token" in " ".join(
        capsys.readouterr().out.split()
    )
    [store] = stores(own_cache)
    np.testing.assert_allclose(np.concatenate([store.values(p) for p in store.find(digests)]), values, atol=1e-5)


def test_a_grown_data_set_scores_what_is_new(make: Make, own_cache: Path) -> None:  # noqa: F811
    trainer = make(model=WORD)
    trainer.keep_reference()
    whole = trainer.prepared.rows
    [store] = stores(own_cache)
    digests = row_digests(whole.rows)
    places = store.find(digests)[:10]
    some = np.concatenate([store.values(p) for p in places]), np.array([store.lengths(p) for p in places])
    store.discard()
    store.add(digests[:10], *some)
    assert scored(make(model=WORD)) == 4 + len(whole.rows) - 10 + 6


def test_an_earlier_adapter_has_a_reference_of_its_own(make: Make, own_cache: Path, tmp_path: Path) -> None:  # noqa: F811
    first = make(model=WORD, max_steps=4)
    first.keep_reference()
    first.train()
    path = str(save_policy(first.model, first.processing_class, tmp_path / "earlier"))
    trainer = make(model=WORD, adapter=stock.lora(path=path), reference="adapter")
    assert scored(trainer) == 22
    assert len(stores(own_cache)) == 2
    trainer.train()
    assert torch.cat(trainer.first_losses).mean().item() == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize(
    "what",
    [
        {"engine": "trl"},
        {"loss": "tdpo", "parameters": {"alpha": 0.5}},
        {"data": {"streaming": True, "test_size": 4, "duplicates": "keep", "conflicts": "keep"}},
    ],
    ids=["stock", "divergence", "stream"],
)
def test_the_reference_stays_in_the_loop_where_it_cannot_be_kept(make: Make, own_cache: Path, what: Any) -> None:  # noqa: F811
    trainer = make(model=WORD, **copy.deepcopy(what))
    trainer.keep_reference()
    assert not (own_cache / "reference").exists()
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_reference_that_is_not_finite_ends_the_run_in_a_sentence_and_is_not_kept(
    make: Make,  # noqa: F811
    own_cache: Path,
) -> None:
    trainer = make(model=WORD)
    with torch.no_grad():
        trainer.model.base_model.model.lm_head.weight[5, 5] = float("nan")
    with pytest.raises(RunFailed, match="the reference's log-probabilities must be finite, got NaN or infinity"):
        trainer.keep_reference()
    assert [len(store) for store in stores(own_cache)] == [0]
