import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preftune import config
from preftune.refusals import Refusal
from preftune.settings import shown

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture
def values():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("run"), resolve=True)


def test_the_choices_become_a_record_that_cannot_change(values):
    run = config.load(OmegaConf.create(values))
    with pytest.raises(ValueError, match="frozen"):
        run.seed = 1


def test_a_record_that_was_written_out_is_read_back_equal(values):
    run = config.Config.model_validate(values)
    assert config.Config.model_validate(run.model_dump()) == run


def test_every_fault_is_told_at_once_and_so_are_disagreements_between_the_sound_parts(values):
    values["loss"]["beta"] = -1
    values["seed"] = "zero"
    values["train"]["learning_rate"] = "5e-6"
    values["train"]["lerning_rate"] = 1.0
    values["adapter"]["r"] = None
    values["reference"] = "adaptor"
    values["model"]["quantization"] = "nf4"
    values["verify"] = None
    assert config.faults(values) == [
        "loss.beta must be a number above 0, got -1",
        "adapter.r must be a whole number at least 1 and at most 4096, got null",
        "train.learning_rate must be a number at least 0, got '5e-6' (text)",
        "train.lerning_rate must be a key of trl.DPOConfig, got 1.0; did you mean train.learning_rate?",
        "seed must be a whole number at least 0 and below 4294967296, got 'zero'",
        "reference must be one of base, adapter, got 'adaptor'; did you mean adapter?",
        "verify must be first_batch, every_<n> with a whole n above 0, or off, got null",
    ]


def test_parts_that_disagree_are_told_beside_a_fault_elsewhere(values):
    values["seed"] = -1
    values["adapter"]["dropout"] = 0.05
    assert config.faults(values) == [
        "seed must be a whole number at least 0 and below 4294967296, got -1",
        "train.disable_dropout must be false where adapter.dropout is above 0, got true beside 0.05: "
        "TRL would switch the dropout off",
    ]


def test_dropout_acts_where_it_is_not_disabled(values):
    values["adapter"]["dropout"] = 0.05
    values["train"]["disable_dropout"] = False
    assert config.faults(values) == []


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_adapter_with_a_learned_magnitude_may_stand_on_a_quantised_model(values, quantization):
    values["adapter"]["name"] = "dora"
    values["model"]["quantization"] = quantization
    assert config.faults(values) == []


def test_a_reference_adapter_is_the_one_at_its_path(values):
    values["reference"] = "adapter"
    values["adapter"]["path"] = "runs/earlier/adapter"
    assert config.faults(values) == []


def test_half_precision_of_one_kind_is_not_asked_of_weights_of_the_other(values):
    values["model"]["dtype"] = "bfloat16"
    values["train"]["fp16"] = True
    assert config.faults(values) == ["train.fp16 must be false where model.dtype is bfloat16, got true; set train.bf16"]


def test_a_missing_part_is_named(values):
    del values["loss"]
    del values["run"]["dir"]
    assert config.faults(values) == [
        "loss must be given, got nothing",
        "run.dir must be given, got nothing",
    ]


def test_a_loss_without_a_name_is_asked_for_one(values):
    del values["loss"]["name"]
    names = [path.stem for path in (CONF / "loss").glob("*.yaml")]
    assert len(names) == 29
    names.remove("custom")
    (fault,) = config.faults(values)
    said = re.fullmatch(r"loss\.name must be one of (.*), got null", fault)
    assert said
    assert sorted(said[1].split(", ")) == sorted([*names, "or a function by dotted path"])


def test_an_entry_of_a_list_is_refused_by_the_name_of_the_list(values):
    values["model"]["target_modules"] = []
    assert config.faults(values) == [
        "model.target_modules must be all-linear or a list of text with at least 1 entries, got []"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("track.token", "abc"),
        ("track.hf_token", "abc"),
        ("track.WANDB_API_KEY", "abc"),
        ("track.password", "abc"),
        ("track.client_secret", "abc"),
        ("data.id", "hf_0123456789abcdef"),
        ("data.id", "0123456789abcdef0123456789abcdef01234567"),
    ],
)
def test_what_looks_like_a_secret_is_refused_without_being_shown(key, value):
    sentence = f"{key} must be left out, got what looks like a secret; set it in the environment"
    assert config.forbidden_setting(key, value) == sentence


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.pad_token", "<|pad|>"),
        ("evaluate.max_new_tokens", 128),
        ("model.revision", "0123456789abcdef0123456789abcdef01234567"),
        ("data.id", "org/hf_models"),
        ("model.path", "${oc.env:HOME}/model"),
    ],
)
def test_what_only_sounds_like_a_secret_passes(key, value):
    assert config.forbidden_setting(key, value) is None


def test_a_secret_deep_in_a_list_is_found_and_the_run_refused(values):
    values["track"]["tags"] = ["fine", "hf_0123456789abcdef"]
    with pytest.raises(Refusal, match=r"^track\.tags must be left out, got what looks like a secret"):
        config.load(OmegaConf.create(values))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        ("x", "'x'"),
        ("1e-3", "'1e-3' (text)"),
        ("False", "'False' (text)"),
        ({"a": None}, "{a: null}"),
        (["hf_0123456789abcdef"], "['(hidden)']"),
    ],
)
def test_a_value_is_shown_as_it_reads_in_yaml(value, words):
    assert shown(value) == words
