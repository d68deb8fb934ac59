"""Every file of conf/ composes into a configuration that holds."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from preftune import config

CONF = Path(__file__).parent.parent / "conf"
FILES = {
    "adapter": 3,
    "data": 8,
    "experiment": 3,
    "launch": 1,
    "loss": 29,
    "model": 12,
    "track": 4,
    "train": 2,
}
# What a choice asks of the person who makes it.
NEEDED = {
    "model=local": ["model.path=somewhere"],
    "data=jsonl": ["data.path=rows.jsonl"],
    "data=sharegpt": ["data.path=rows.json"],
    "data=mix": ["data.mix=[{path: rows.json}]"],
    "loss=kto": ["method=kto"],
    "loss=custom": ["loss.name=my_pkg.my_loss"],
}
CHOICES = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]


def composed(*overrides: str) -> config.Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config.load(compose("run", [*overrides]))


def test_every_group_holds_as_many_files_as_it_should():
    found = {group.name: len(list(group.glob("*.yaml"))) for group in CONF.iterdir() if group.is_dir()}
    assert found == FILES
    assert len(CHOICES) == 62


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_into_a_run(choice):
    run = composed(choice, *NEEDED.get(choice, []))
    group, _, name = choice.partition("=")
    if group != "experiment":
        assert getattr(run, group).name == name


def test_the_bare_command_trains_the_tiny_model_on_the_toy():
    run = composed()
    assert (run.model.name, run.data.name, run.loss.name, run.adapter.name) == (
        "tiny",
        "toy",
        "sigmoid",
        "lora",
    )


def test_no_file_names_code_to_run():
    assert not [path for path in CONF.rglob("*.yaml") if "_target_" in path.read_text()]


def test_the_published_merge_run_keeps_its_settings_and_mends_its_warm_up():
    run = composed("experiment=hermes2k_llama3_8b")
    assert run.model.id == "yuvraj17/Llama3-8B-SuperNova-Spectrum-dare_ties"
    assert (run.adapter.r, run.adapter.alpha, run.adapter.dropout) == (32, 16, 0.05)
    assert run.train.dpo["warmup_steps"] == 0.1
    assert run.train.dpo["disable_dropout"] is False


@pytest.mark.parametrize(("size", "length", "steps"), [("0_5b", 512, 100), ("3b", 1024, 5000)])
def test_the_published_qwen_runs_hold_out_one_percent_by_their_own_seed(size, length, steps):
    run = composed(f"experiment=ultrafeedback_qwen2_5_{size}")
    assert run.model.name == f"qwen2_5_{size}"
    assert (run.data.test_size, run.data.split_seed) == (0.01, 54321)
    assert (run.train.dpo["max_length"], run.train.dpo["max_steps"]) == (length, steps)


def test_an_experiment_gives_way_to_what_is_typed():
    assert composed("experiment=hermes2k_llama3_8b", "loss.beta=0.2").loss.beta == 0.2
