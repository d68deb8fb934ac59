"""What may differ from the start that a run's directory holds: some thirty changes, each with its answer.

No model is trained: the directories are made by `RunDirectory` alone.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preftune.refusals import Refusal, RunFailed
from preftune.runs import versions
from preftune.runs.opening import open_run
from tests import stock

ROOT = Path(__file__).parents[2]
FACTS = {"model": {"commit": "a1"}, "template": "t1", "data": {"source": "mine", "fingerprint": "f1"}}
OWN = "def mine(logps, *, beta: float):\n    return -beta * logps.margin()\n"
TORCH = versions.versions()["torch"]
Change = Callable[[dict[str, Any], Path], object]


def base(place: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run on files in `place`, which this makes."""
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    (place / "template.jinja").write_text("{{ messages }}")
    (place / "own_loss.py").write_text(OWN)
    stock.write_pairs(place / "pairs.jsonl", stock.pairs(4))
    run = copy.deepcopy(composed())
    run["model"] |= {"path": f"{place}/model", "chat_template": f"{place}/template.jinja"}
    run["data"]["path"] = f"{place}/pairs.jsonl"
    run["run"]["dir"] = f"{place}/run"
    return run


@cache
def composed() -> dict[str, Any]:
    chosen = ["model=local", "model.path=x", "data=jsonl", "data.path=x", "loss=custom", "loss.name=own_loss.mine"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run: Any = OmegaConf.to_container(compose("run", [*chosen, "+loss.params.beta=0.1"]), resolve=True)
    return dict(run)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("own_loss", None)


def leave(run: dict[str, Any], *, complete: bool = False, checkpoint: bool = True) -> Path:
    """Leave a run that was stopped at step 5 of 10, with a checkpoint of step 4, or one that is complete."""
    with open_run(run, scratch=False) as directory:
        directory.start(run, {})
        directory.write_inputs(FACTS, None)
        directory.progress(5, 10)
        if checkpoint:
            (directory.path / "checkpoints" / "step-2").mkdir(parents=True)
            (directory.path / "checkpoints" / "step-4").mkdir()
        with suppress(KeyboardInterrupt), directory.running():
            if not complete:
                raise KeyboardInterrupt
    return directory.path


def reopen(run: dict[str, Any]) -> None:
    """Hold the run's directory for a moment."""
    with open_run(run, scratch=False):
        pass


def manifest(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return content


def made_by(path: Path, package: str, version: str) -> None:
    """Pretend that the run in `path` was made by another version."""
    told = manifest(path)
    if package == "code":
        told["code"] = version
    else:
        told["versions"][package] = version
    (path / "manifest.json").write_text(json.dumps(told))


def put(key: str, value: object) -> Change:
    """Return a change of a setting."""

    def change(run: dict[str, Any], place: Path) -> None:
        group, _, leaf = key.rpartition(".")
        (run[group] if group else run)[leaf] = value

    return change


def write(name: str, text: str) -> Change:
    """Return a change of a file's content."""
    return lambda run, place: (place / name).write_text(text)


def move(key: str) -> Change:
    """Return a change of where a file lies, not of what it holds."""

    def change(run: dict[str, Any], place: Path) -> None:
        group, leaf = key.split(".")
        there = Path(run[group][leaf])
        run[group][leaf] = str(there.rename(place / f"moved{there.suffix}"))

    return change


def by(package: str, version: str) -> Change:
    return lambda run, place: made_by(Path(run["run"]["dir"]), package, version)


def with_one_more_key(run: dict[str, Any], place: Path) -> None:
    run["train"]["average_tokens_across_devices"] = False


MODEL, ADAPTER = "its checkpoints are of that model", "its checkpoints are of that adapter"
PAIRS, BATCHES = "its checkpoints stand at a place among those pairs", "at a place among the batches that it makes"

SAME: list[tuple[str, Change]] = [
    ("nothing", lambda run, place: None),
    ("what is logged when", put("train.logging_steps", 7)),
    ("how often it saves", put("train.save_steps", 7)),
    ("the tracker", put("track.name", "none")),
    ("a whole number", put("train.max_grad_norm", 1)),
    ("another place of the model", move("model.path")),
    ("another place of the pairs", move("data.path")),
]

DIFFERENT: list[tuple[str, Change, str]] = [
    ("train.learning_rate", put("train.learning_rate", 2e-4), "train.learning_rate: 0.0001 there, 0.0002 here"),
    ("train.num_train_epochs", put("train.num_train_epochs", 2.0), "train.num_train_epochs: 1 there, 2 here"),
    (
        "train.lr_scheduler_type",
        put("train.lr_scheduler_type", "linear"),
        "lr_scheduler_type: cosine there, linear here",
    ),
    ("train.average_tokens_across_devices", with_one_more_key, "devices: not given there, false here"),
    ("loss.params.beta", lambda run, place: run["loss"]["params"].update(beta=0.2), "beta: 0.1 there, 0.2 here"),
    ("loss.name", write("own_loss.py", OWN.replace("-beta", "-2 * beta")), "loss.name: other content"),
    ("evaluate.prompts", put("evaluate.prompts", 8), "evaluate.prompts: 64 there, 8 here"),
    ("engine", put("engine", "trl"), "engine: auto there, trl here"),
    ("versions.torch", by("torch", "2.0.0"), f"versions.torch: 2.0.0 there, {TORCH} here"),
    ("versions.trl", by("trl", "1.15.0"), "versions.trl: 1.15.0 there"),
    ("code", by("code", "0" * 16), f"code: {'0' * 16} there, {versions.code()} here"),
]

FIXED: list[tuple[str, Change, str]] = [
    ("model.path", write("model/config.json", "{ }"), f"model.path: other content; {MODEL}"),
    ("model.quantization", put("model.quantization", "nf4"), f"model.quantization: null there, nf4 here; {MODEL}"),
    ("model.target_modules", put("model.target_modules", ["q_proj"]), f"here; {MODEL}"),
    ("model.chat_template", write("template.jinja", "{{ 1 }}"), f"model.chat_template: other content; {MODEL}"),
    ("adapter.r", put("adapter.r", 8), f"adapter.r: 16 there, 8 here; {ADAPTER}"),
    ("adapter.name", put("adapter.name", "dora"), f"adapter.name: lora there, dora here; {ADAPTER}"),
    ("train.optim", put("train.optim", "adafactor"), "its checkpoints hold the state of that optimizer"),
    ("data.path", write("pairs.jsonl", "{}"), f"data.path: other content; {PAIRS}"),
    ("data.split_seed", put("data.split_seed", 1), f"data.split_seed: 0 there, 1 here; {PAIRS}"),
    ("seed", put("seed", 1), f"seed: 0 there, 1 here; {PAIRS}"),
    ("train.global_batch_size", put("train.global_batch_size", 16), BATCHES),
]


def changed(run: dict[str, Any], place: Path, change: Change, *allowed: str) -> dict[str, Any]:
    other = copy.deepcopy(run)
    change(other, place)
    other["run"]["allow_change"] = list(allowed)
    return other


def test_there_are_about_thirty_changes() -> None:
    assert (len(SAME), len(DIFFERENT), len(FIXED)) == (7, 11, 11)


@pytest.mark.parametrize("change", [change for _, change in SAME], ids=[name for name, _ in SAME])
def test_what_changes_no_result_goes_on(place: Path, change: Change) -> None:
    run = base(place)
    before = manifest(leave(run))
    with open_run(changed(run, place, change), scratch=False) as directory:
        directory.freeze(run, {})
    assert manifest(directory.path)["identity"] == before["identity"]
    assert manifest(directory.path)["changes"] == []


@pytest.mark.parametrize(("key", "change", "told"), DIFFERENT, ids=[key for key, *_ in DIFFERENT])
def test_what_differs_is_named_and_goes_on_where_that_is_allowed(
    place: Path, key: str, change: Change, told: str
) -> None:
    run = base(place)
    before = manifest(leave(run))
    with pytest.raises(Refusal) as refusal:
        reopen(changed(run, place, change))
    assert told in str(refusal.value).splitlines()[1]
    assert f"run.allow_change=[{key}] goes on all the same" in str(refusal.value)
    other = changed(run, place, change, key)
    with open_run(other, scratch=False) as directory:
        directory.freeze(other, {})
        assert directory.identities[-1] == before["identity"]
    (recorded,) = manifest(directory.path)["changes"]
    assert (recorded["key"], recorded["step"]) == (key, 4)
    assert recorded["from"] != recorded["to"]
    assert recorded["time"].endswith("+00:00")
    for again in (other, changed(other, place, lambda run, place: None)):  # a requeued command is the same one
        with open_run(again, scratch=False) as directory:
            directory.freeze(again, {})
    assert manifest(directory.path)["changes"] == [recorded]


@pytest.mark.parametrize(("key", "change", "told"), FIXED, ids=[key for key, *_ in FIXED])
def test_what_does_not_fit_the_checkpoints_is_refused_by_name_even_where_it_is_allowed(
    place: Path, key: str, change: Change, told: str
) -> None:
    run = base(place)
    before = manifest(leave(run))
    with pytest.raises(Refusal) as refusal:
        reopen(changed(run, place, change, key))
    assert told in str(refusal.value)
    assert f"run.allow_change cannot allow {key}; set run.dir" in str(refusal.value)
    assert manifest(Path(run["run"]["dir"])) == before


def test_all_that_differs_is_one_list(place: Path) -> None:
    run = base(place)
    path = leave(run)
    other = changed(run, place, put("loss.params", {"beta": 0.5}), "loss.params.beta")
    other["train"]["weight_decay"] = 0.1
    made_by(path, "peft", "0.1.0")
    with pytest.raises(Refusal) as refusal:
        reopen(other)
    assert str(refusal.value).splitlines() == [
        f"run directory must be empty or hold this very run, got {path}, which holds a run that differs in",
        "  loss.params.beta: 0.1 there, 0.5 here",
        "  train.weight_decay: 0 there, 0.1 here",
        f"  versions.peft: 0.1.0 there, {versions.versions()['peft']} here",
        "set run.dir to another directory, or to null to name it after the run; "
        "run.allow_change=[loss.params.beta,train.weight_decay,versions.peft] goes on all the same",
    ]


@pytest.mark.parametrize("state", [{"complete": True}, {"checkpoint": False}])
def test_versions_count_only_where_there_is_something_to_go_on_from(place: Path, state: dict[str, bool]) -> None:
    run = base(place)
    path = leave(run, **state)
    made_by(path, "torch", "2.0.0")
    made_by(path, "code", "0" * 16)
    reopen(run)


def test_a_complete_run_trains_on_where_its_last_checkpoint_is_there(place: Path) -> None:
    run = base(place)
    path = leave(run, complete=True)
    longer = changed(run, place, put("train.num_train_epochs", 2.0), "train.num_train_epochs")
    with open_run(longer, scratch=False) as directory:
        previous = directory.previous()
        assert previous is not None
        assert not previous.complete
        directory.freeze(longer, {})  # killed here
    with open_run(longer, scratch=False) as directory:
        previous = directory.previous()
        assert previous is not None
        assert not previous.complete
    for checkpoint in (path / "checkpoints").iterdir():
        checkpoint.rmdir()
    (path / "status.json").write_text(json.dumps({"state": "complete"}))
    longest = changed(run, place, put("train.num_train_epochs", 3.0), "train.num_train_epochs")
    with pytest.raises(Refusal, match=r"it is complete and has no checkpoint to go on from; set run\.dir"):
        reopen(longest)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("train.num_train_epoch", "versions or code, got train.num_train_epoch; did you mean train.num_train_epochs?"),
        ("version.torch", "versions or code, got version.torch; did you mean versions.torch?"),
        ("train.logging_steps", "got train.logging_steps, which changes no result and may differ"),
        ("train.weight_decay", "got train.weight_decay: it is the same in "),
        ("versions.torch", "got versions.torch: it is the same in "),
    ],
)
def test_a_name_without_effect_is_refused(place: Path, name: str, why: str) -> None:
    run = base(place)
    leave(run)
    with pytest.raises(Refusal) as refusal:
        reopen(changed(run, place, lambda run, place: None, name))
    assert why in str(refusal.value)


def test_a_run_that_begins_has_nothing_to_allow(place: Path) -> None:
    run = changed(base(place), place, lambda run, place: None, "versions.torch")
    with pytest.raises(
        Refusal, match=r"got versions.torch: .* holds no run; leave it out, or set run.dir to that run's"
    ):
        reopen(run)
    run["sweep"]["name"] = "mine"  # of its jobs some may have begun
    reopen(run)


def test_what_is_known_once_it_is_loaded_must_be_what_the_checkpoints_are_of(place: Path) -> None:
    run = base(place)
    leave(run)
    other = {**FACTS, "model": {"commit": "b2"}, "template": "t2"}
    with open_run(run, scratch=False) as directory:
        directory.start(run, {})
        with pytest.raises(RunFailed) as failed, directory.running():
            directory.write_inputs(other, None)
        told = [line.strip() for line in str(failed.value).splitlines()]
        assert told[1:3] == ["model.commit: a1 there, b2 here", "template: t1 there, t2 here"]
    with open_run(run, scratch=False) as directory:  # what they were of is not forgotten
        directory.start(run, {})
        directory.write_inputs(FACTS, None)


def test_a_run_of_a_version_that_kept_no_settings_is_told_by_its_identity(place: Path) -> None:
    run = base(place)
    path = leave(run)
    told = manifest(path)
    del told["made_from"]
    (path / "manifest.json").write_text(json.dumps(told))
    reopen(run)
    with pytest.raises(Refusal, match=r"hold this run \(\w{8}\), got .*, which holds run \w{8}: another configuration"):
        reopen(changed(run, place, put("seed", 3)))


def test_the_manifest_names_no_file_of_the_machine(place: Path) -> None:
    path = leave(base(place))
    assert manifest(path)["made_from"]["data.path"].keys() == {"content"}
    assert str(place) not in (path / "manifest.json").read_text()
