import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from preftune import config
from preftune.training import dpo_fields
from preftune.training.dpo_keys import OWNED, PASSED, REPLACED

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture(scope="module")
def installed():
    trl = pytest.importorskip("trl")
    return {field.name: field for field in dataclasses.fields(trl.DPOConfig) if field.init}


def test_the_fields_read_from_source_are_those_of_the_class(installed):
    assert sorted(dpo_fields.annotations()) == sorted(installed)


def test_every_field_either_passes_through_or_is_owned():
    decided, found = {*PASSED, *OWNED}, set(dpo_fields.annotations())
    assert {"new here, to be decided": sorted(found - decided), "gone": sorted(decided - found)} == {
        "new here, to be decided": [],
        "gone": [],
    }
    assert not PASSED.keys() & OWNED.keys()


def test_a_name_that_other_recipes_use_is_no_field_again():
    assert not REPLACED.keys() & dpo_fields.annotations().keys()


def test_the_defaults_of_the_class_are_values_that_pass(installed):
    # null becomes true for bf16 in TRL itself, and 500 steps of logging are whole
    given = {"bf16": False, "warmup_steps": 0, "eval_delay": 0}
    keys = {name: given.get(name, installed[name].default) for name in PASSED}
    assert dpo_fields.faults({key: getattr(value, "value", value) for key, value in keys.items()}) == []


def test_the_choices_are_those_of_the_enums():
    transformers = pytest.importorskip("transformers")
    from transformers.training_args import OptimizerNames

    for key, enum in (
        ("lr_scheduler_type", transformers.SchedulerType),
        ("optim", OptimizerNames),
        ("eval_strategy", transformers.trainer_utils.IntervalStrategy),
    ):
        assert dpo_fields.kind(key).json_schema()["enum"] == [choice.value for choice in enum]


@pytest.mark.parametrize("key", sorted(PASSED))
def test_no_key_takes_what_makes_no_sense_of_it(key):
    (fault,) = dpo_fields.faults({key: object})
    assert fault.startswith(f"train.{key} must be ")


@pytest.mark.parametrize("key", sorted({**OWNED, **REPLACED}))
def test_a_key_that_is_not_passed_through_is_refused_with_what_to_do(key):
    remedy = {**OWNED, **REPLACED}[key]
    assert dpo_fields.faults({key: 1}) == [f"train.{key} must be left out, got 1; {remedy}"]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (
            {"bf16": "false"},
            "train.bf16 must be true or false, got 'false' (text)",
        ),
        (
            {"logging_steps": 2.5},
            "train.logging_steps must be a whole number at least 1 or a number above 0 and below 1, got 2.5",
        ),
        (
            {"per_device_eval_batch_size": True},
            "train.per_device_eval_batch_size must be a whole number at least 1, got true",
        ),
        (
            {"learning_rate": float("inf")},
            "train.learning_rate must be a number at least 0, got inf",
        ),
        (
            {"warmup_steps": 5, "max_steps": 5},
            "train.warmup_steps must be below train.max_steps=5, got 5: the learning rate would never reach "
            "its peak; below 1 it is a share of all steps",
        ),
        (
            {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
            "train.gradient_checkpointing_kwargs must be left out unless train.gradient_checkpointing is "
            "true or auto, got {use_reentrant: false} beside false",
        ),
        (
            {"optim": "sgd", "adam_beta1": 0.8},
            "train.adam_beta1 must be left out unless train.optim is an optimizer of Adam's kind, got 0.8 beside 'sgd'",
        ),
        (
            {"optim_target_modules": ["attn"]},
            "train.optim_target_modules must be left out unless train.optim is a galore or apollo optimizer, "
            "got ['attn'] beside 'adamw_torch'",
        ),
        (
            {"trian_sampling_strategy": "random"},
            "train.trian_sampling_strategy must be a key of trl.DPOConfig, got 'random'; "
            "did you mean train.train_sampling_strategy?",
        ),
    ],
)
def test_a_wrong_key_is_refused_with_its_sentence(keys, fault):
    assert dpo_fields.faults(keys) == [fault]


@pytest.mark.parametrize(
    "keys",
    [
        {"max_steps": -1, "warmup_steps": 100},
        {"max_steps": 62, "warmup_steps": 61},
        {"max_length": None},
        {"learning_rate": 1, "eval_strategy": "steps", "eval_steps": 0.5},
        {"lr_scheduler_type": "constant", "warmup_steps": 0},
        {"lr_scheduler_type": "greedy", "eval_strategy": "epoch"},
        {"optim": "paged_adamw_32bit", "adam_beta2": 0.95},
    ],
)
def test_keys_at_their_limits_pass(keys):
    assert dpo_fields.faults(keys) == []


@pytest.mark.parametrize("name", ["default", "smoke"])
def test_what_a_train_file_passes_on_builds_a_dpo_config(name, tmp_path):
    trl = pytest.importorskip("trl")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = config.load(compose("run", [f"train={name}"])).train.dpo
    made = trl.DPOConfig(output_dir=str(tmp_path), **keys)
    assert (made.max_length, made.learning_rate, made.max_steps) == (1024, 1.5e-3, keys["max_steps"])


def test_the_fields_are_read_without_importing_what_holds_them():
    code = (
        "import sys; from preftune.training import dpo_fields; dpo_fields.faults({'optim': 'sgd'}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'trl', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
