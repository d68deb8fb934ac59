"""What makes two runs the same run."""

import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from preftune.refusals import Refusal
from preftune.runs.identity import directory_name, identity, local_contents
from preftune.runs.opening import open_run


def configuration(**changes: object) -> dict[str, object]:
    """Return a small configuration; `a__b=1` sets key b of a."""
    tree: dict[str, dict[str, object]] = {
        "model": {"name": "local", "path": "/models/a"},
        "loss": {"name": "sigmoid", "beta": 0.1},
        "train": {"name": "default", "global_batch_size": 32, "learning_rate": 1e-4, "logging_steps": 1},
        "track": {"name": "wandb"},
        "run": {"dir": None},
    }
    for key, value in changes.items():
        group, _, leaf = key.partition("__")
        tree.setdefault(group, {})[leaf] = value
    return {**tree, "seed": 0}


def test_an_identity_is_64_hex_and_the_same_twice() -> None:
    first = identity(configuration(), {})
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert first == identity(dict(reversed(configuration().items())), {})


@pytest.mark.parametrize(
    "change",
    [
        {"loss__beta": 0.2},
        {"train__learning_rate": 2e-4},
        {"train__max_steps": 5},
        {"train__dataloader_in_order": False},
        {"evaluate__prompts": 8},
        {"evaluate__points": 2},
        {"guard__stop_on": ["collapsed"]},
        {"guard__displaced": 0.7},  # with stop_on it decides where the training ends
        {"model__dtype": "float32"},
    ],
)
def test_what_changes_the_result_changes_the_identity(change: dict[str, object]) -> None:
    assert identity(configuration(**change), {}) != identity(configuration(), {})


@pytest.mark.parametrize(
    "change",
    [
        {"track__name": "none"},
        {"run__dir": "elsewhere"},
        {"launch__name": "slurm"},
        {"sweep__name": "betas"},
        {"train__name": "mine"},
        {"train__logging_steps": 10},
        {"train__logging_strategy": "epoch"},
        {"train__logging_first_step": True},
        {"train__log_level": "info"},
        {"train__dataloader_num_workers": 4},
        {"train__dataloader_pin_memory": False},
        {"train__dataloader_persistent_workers": True},
        {"train__dataloader_prefetch_factor": 2},
        {"train__save_steps": 10},
        {"train__global_batch_size": 32.0},
    ],
)
def test_what_changes_nothing_leaves_the_identity(change: dict[str, object]) -> None:
    assert identity(configuration(**change), {}) == identity(configuration(), {})


def test_a_dry_run_is_the_run_that_it_tries() -> None:
    assert identity({**configuration(), "dry_run": True}, {}) == identity(configuration(), {})


def test_dpo_keys_count_the_same_in_train_and_in_train_dpo() -> None:
    flat = {"train": {"global_batch_size": 8, "learning_rate": 1e-4, "logging_steps": 2}}
    nested = {"train": {"global_batch_size": 8, "dpo": {"learning_rate": 1e-4, "logging_steps": 3}}}
    assert identity(flat, {}) == identity(nested, {})


def test_logging_steps_count_where_evaluation_falls_back_to_them() -> None:
    def with_logging(steps: int, **more: object) -> str:
        return identity(configuration(train__eval_strategy="steps", train__logging_steps=steps, **more), {})

    assert with_logging(1) != with_logging(2)
    assert with_logging(1, train__eval_steps=5) == with_logging(2, train__eval_steps=5)


def test_saving_counts_where_a_checkpoint_may_become_the_result() -> None:
    def with_saving(steps: int) -> str:
        best = {"train__load_best_model_at_end": True, "train__save_steps": steps}
        return identity(configuration(**best), {})

    assert with_saving(5) != with_saving(10)


def test_the_same_path_with_other_bytes_is_another_run(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("one")
    first = identity(configuration(), local_contents({"data.path": str(data)}))
    data.write_text("two")
    assert identity(configuration(), local_contents({"data.path": str(data)})) != first


def test_the_same_bytes_at_another_path_are_the_same_run(tmp_path: Path) -> None:
    def run_on(name: str) -> str:
        (tmp_path / name).write_text("weights")
        path = str(tmp_path / name)
        return identity(configuration(model__path=path), local_contents({"model.path": path}))

    assert run_on("a") == run_on("b")


def test_a_directory_counts_by_names_and_bytes_and_hidden_entries_do_not(tmp_path: Path) -> None:
    def contents() -> str:
        return local_contents({"model.path": str(tmp_path)})["model.path"]

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"abc")
    (tmp_path / "config").write_bytes(b"def")
    first = contents()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("x")
    assert contents() == first
    (tmp_path / "config").rename(tmp_path / "settings")
    renamed = contents()
    assert renamed != first
    (tmp_path / "sub" / "weights").write_bytes(b"abd")
    assert contents() not in (first, renamed)


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert local_contents({"data.path": str(tmp_path / "abc"), "model.path": None}) == {"data.path": expected}


def test_missing_inputs_are_refused_all_together() -> None:
    with pytest.raises(Refusal) as refusal:
        local_contents({"data.path": "no/pairs.jsonl", "model.path": "no/model"})
    assert str(refusal.value).splitlines() == [
        "data.path must name an existing file or directory, got 'no/pairs.jsonl'",
        "model.path must name an existing file or directory, got 'no/model'",
    ]


def test_a_directory_name_is_one_component() -> None:
    assert directory_name("tiny", "toy", "sigmoid", "0123456789" * 6 + "abcd") == "tiny-toy-sigmoid-01234567"
    assert directory_name("tiny", "toy", "../x", "f" * 64) == "tiny-toy-.._x-ffffffff"


def opened(data: dict[str, object]) -> str:
    """Return the identity of a run on `data`, as its directory's name ends."""
    named = {"name": "local", "path": None, "chat_template": None}
    resolved = {"model": named, "loss": {"name": "x"}, "adapter": {}, "run": {"dir": None}, "data": data}
    with open_run(resolved, scratch=True) as directory:
        return directory.path.name


def sources(directory: Path) -> list[dict[str, object]]:
    """Return a mix of a file, a glob and a saved data set with two splits."""
    return [
        {"path": str(directory / "a.jsonl"), "weight": 2},
        {"path": str(directory / "part-*.csv")},
        {"path": str(directory / "saved"), "split": "test"},
        {"id": "owner/name"},
    ]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories that hold the same."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("a.jsonl", "part-1.csv", "part-2.csv"):
        (here / name).write_text(name)
    rows = Dataset.from_list([{"a": 1}])
    DatasetDict(train=rows, test=rows).save_to_disk(here / "saved")
    return here, shutil.copytree(here, tmp_path / "there")


def mix(directory: Path) -> dict[str, object]:
    return {"name": "mix", "source": "mix", "path": None, "mix": sources(directory)}


def test_a_mix_is_the_run_of_a_copy_of_its_files_elsewhere(places: tuple[Path, Path]) -> None:
    here, there = places
    assert opened(mix(here)) == opened(mix(there))
    backwards = [dict(reversed(entry.items())) for entry in sources(there)]
    assert opened({**mix(there), "mix": backwards}) == opened(mix(here))


@pytest.mark.parametrize("name", ["a.jsonl", "part-2.csv", "saved/test/data-00000-of-00001.arrow"])
def test_a_changed_byte_in_any_source_of_a_mix_is_another_run(places: tuple[Path, Path], name: str) -> None:
    here, there = places
    raw = bytearray((there / name).read_bytes())
    raw[-1] ^= 1
    (there / name).write_bytes(raw)
    assert opened(mix(here)) != opened(mix(there))


def test_a_split_of_a_mix_that_is_not_read_and_another_weight(places: tuple[Path, Path]) -> None:
    here, there = places
    (there / "saved/train/data-00000-of-00001.arrow").write_bytes(b"not read")
    assert opened(mix(here)) == opened(mix(there))
    first, *others = sources(there)
    assert opened({**mix(there), "mix": [{**first, "weight": 3}, *others]}) != opened(mix(here))


@pytest.mark.parametrize("path", ["a.jsonl", "part-*.csv", "saved"])
def test_every_kind_of_path_counts_by_what_it_holds(places: tuple[Path, Path], path: str) -> None:
    here, there = (opened({"name": "mine", "path": str(place / path), "mix": None}) for place in places)
    assert here == there


def test_missing_sources_are_refused_with_all_that_is_missing(places: tuple[Path, Path]) -> None:
    here, _ = places
    (here / "a.jsonl").unlink()
    (here / "part-1.csv").unlink()
    (here / "part-2.csv").unlink()
    with pytest.raises(Refusal) as refusal:
        opened({**mix(here), "path": "no.jsonl"})
    assert str(refusal.value).splitlines() == [
        "data.path must name a file that exists, got 'no.jsonl'",
        f"data.mix[0].path must name a file that exists, got '{here}/a.jsonl'",
        f"data.mix[1].path must match at least one file, got '{here}/part-*.csv', which matches none",
    ]
