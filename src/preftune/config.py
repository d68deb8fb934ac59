"""The whole configuration of a run: the records that the stages own, and what must hold between them."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails

from preftune.data.settings import DataSettings
from preftune.evaluating.relations import OF_EVALUATION
from preftune.evaluating.settings import EvaluateSettings
from preftune.models.settings import AdapterSettings, LowRankSettings, ModelSettings
from preftune.refusals import SECRET, SECRET_NAME, refuse_all, secrets_of_environment
from preftune.reporting.settings import GuardSettings
from preftune.runs.settings import LaunchSettings, RunSettings, SweepSettings, TrackSettings
from preftune.settings import Settings, condition, did_you_mean, shown
from preftune.training.loss_settings import LossSettings
from preftune.training.relations import OF_TRAINING
from preftune.training.settings import TrainSettings


def _names_a_check(verify: object) -> object:
    if not (isinstance(verify, str) and re.fullmatch(r"first_batch|every_[1-9]\d*|off", verify)):
        raise ValueError(f"verify must be first_batch, every_<n> with a whole n above 0, or off, got {shown(verify)}")
    return verify


class Config(Settings):
    """A run.

    Attributes:
        seed: Of adapter initialisation, data order and sampling.
        deterministic: Compute with algorithms that give the same bits each time; where there is none, fail. On a CPU
            all do.
        method: How preferences are learned: `dpo` from pairs, with any loss of pairs; `kto` from single answers.
        reference: `base`, the model without adapter, or `adapter`, the one at `adapter.path`.
        engine: What computes the log-probabilities: `trl`, the stock trainer's forward pass; `shared`, which computes
            each prompt once for both answers; `auto`, the latter where the first pairs come out the same.
        verify: Which micro-batches are compared with the from-scratch reference and TRL: `first_batch`,
            `every_<n>` steps and the first, or `off`.
        dry_run: Prepare and print the plan, train nothing.
    """

    model: ModelSettings
    data: DataSettings
    loss: LossSettings
    adapter: AdapterSettings
    train: TrainSettings
    track: TrackSettings
    launch: LaunchSettings
    evaluate: EvaluateSettings
    guard: GuardSettings
    run: RunSettings
    sweep: SweepSettings
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    deterministic: bool
    method: Literal["dpo", "kto"]
    reference: Literal["base", "adapter"]
    engine: Literal["auto", "trl", "shared"]
    verify: Annotated[str, BeforeValidator(_names_a_check)]
    dry_run: bool

    @model_validator(mode="after")
    def _settings_agree(self) -> "Config":
        faults = _disagreements({name: getattr(self, name) for name in type(self).model_fields})
        if faults:
            raise ValueError("\n".join(faults))
        return self


def resolved(choices: DictConfig) -> dict[str, Any]:
    """Return the values of a composed run, or refuse it with every fault at once."""
    refuse_all(forbidden(choices))
    values: Any = OmegaConf.to_container(choices, resolve=True)
    refuse_all(faults(values))
    return dict(values)


def load(choices: DictConfig) -> Config:
    """Return the record of a composed run, or refuse it with every fault at once."""
    return Config.model_validate(resolved(choices))


def faults(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with resolved `values`, as `<key> must be <condition>, got <value>`."""
    try:
        Config.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors(include_url=False)
        broken = {detail["loc"][0] for detail in details if detail["loc"]}
        records = get_type_hints(Config, include_extras=True)
        sound = {
            name: TypeAdapter(record).validate_python(values[name])
            for name, record in records.items()
            if name in Config.model_fields and name in values and name not in broken
        }
        lines = [line for detail in details for line in _sentences(detail, values)]
        return list(dict.fromkeys(lines + (_disagreements(sound) if broken else [])))
    return []


def forbidden(choices: DictConfig) -> list[str]:
    """Return a fault for each secret and each key that names code, in `choices` before interpolation."""
    values = OmegaConf.to_container(choices, resolve=False)
    return [fault for key, value in leaves(values) if (fault := forbidden_setting(key, value))]


_FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)")


def forbidden_setting(key: str, value: object) -> str | None:
    """Return why `key` may not stand in any configuration, or none where it may."""
    last = key.rpartition(".")[2]
    if last.startswith("_target_"):
        return f"{key} must be left out, got {shown(value)}; a configuration names no code to run"
    text = value if isinstance(value, str) else ""
    variables = _FROM_ENVIRONMENT.findall(text)
    read = next((name for name in variables if SECRET_NAME.search(name)), None)
    if read:
        return f"{key} must be left out, got the secret {read}; it is read where it is used"
    is_commit = last == "revision" and re.fullmatch(r"[0-9a-f]{40}", text)
    is_one = (SECRET.search(text) and not is_commit) or any(secret in text for secret in secrets_of_environment())
    if is_one or (SECRET_NAME.search(last) and value is not None):
        return f"{key} must be left out, got what looks like a secret; set it in the environment"
    return None


def leaves(values: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of everything in `values` that is not itself a group."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list) and values:
        for value in values:
            yield from leaves(value, key)
    else:
        yield key, values


def _dropout_acts(adapter: AdapterSettings, train: TrainSettings) -> str | None:
    if isinstance(adapter, LowRankSettings) and adapter.dropout and train.dpo.get("disable_dropout", True):
        return (
            "train.disable_dropout must be false where adapter.dropout is above 0, got true "
            f"beside {adapter.dropout}: TRL would switch the dropout off"
        )
    return None


def _reference_adapter_exists(reference: str, adapter: AdapterSettings) -> str | None:
    if reference == "adapter" and not (isinstance(adapter, LowRankSettings) and adapter.path):
        return "adapter.path must name an earlier adapter where reference is adapter, got null"
    return None


def _full_training_is_not_quantised(adapter: AdapterSettings, model: ModelSettings) -> str | None:
    if adapter.name == "full" and model.quantization:
        return (
            f"model.quantization must be null for adapter=full, got {model.quantization!r}: "
            "quantised weights cannot be trained; choose adapter=lora"
        )
    return None


def _full_training_has_no_targets(adapter: AdapterSettings, model: ModelSettings) -> str | None:
    if adapter.name == "full" and model.target_modules != "all-linear":
        return (
            "model.target_modules must be all-linear for adapter=full, which wraps no module, "
            f"got {shown(model.target_modules)}"
        )
    return None


def _an_adapter_can_be_kept(adapter: AdapterSettings, track: TrackSettings) -> str | None:
    if adapter.name == "full" and track.log_adapter:
        return "track.log_adapter must be false for adapter=full, which trains no adapter, got true"
    return None


def _half_precisions_match(model: ModelSettings, train: TrainSettings) -> str | None:
    if model.dtype == "bfloat16" and train.dpo.get("fp16"):
        return "train.fp16 must be false where model.dtype is bfloat16, got true; set train.bf16"
    return None


_RELATIONS: tuple[Callable[..., str | None], ...] = (
    _dropout_acts,
    _reference_adapter_exists,
    _full_training_is_not_quantised,
    _full_training_has_no_targets,
    _an_adapter_can_be_kept,
    _half_precisions_match,
    *OF_TRAINING,
    *OF_EVALUATION,
)


def _disagreements(settings: Mapping[str, Any]) -> list[str]:
    """Return what fails of the relations whose settings, named by their parameters, are all at hand."""
    found = []
    for relation in _RELATIONS:
        names = inspect.signature(relation).parameters
        if names.keys() <= settings.keys():
            found.append(relation(**{name: settings[name] for name in names}))
    return [fault for fault in found if fault]


def _sentences(detail: ErrorDetails, values: Mapping[str, Any]) -> list[str]:
    """Word one of pydantic's errors."""
    schema, key, siblings = _place(detail["loc"])
    value = detail["input"]
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]).splitlines()
    if detail["type"] == "missing":
        return [f"{key} must be given, got nothing"]
    if detail["type"].startswith("union_tag"):
        return [_union_sentence(key, schema, value)]
    if detail["type"] == "extra_forbidden":
        return [f"{key} must be a known setting, got {shown(value)}{_nearest(key, siblings, values)}"]
    near = did_you_mean(value, schema.get("enum", [])) if isinstance(value, str) else ""
    return [f"{key} must be {condition(schema)}, got {shown(value)}{near}"]


def _union_sentence(key: str, schema: Mapping[str, Any], value: object) -> str:
    tag = schema["discriminator"]["propertyName"]
    options = [option for option in schema["discriminator"]["mapping"] if option != "custom"]
    given = value.get(tag) if isinstance(value, Mapping) else value
    own = ", or a function by dotted path" if len(options) < len(schema["discriminator"]["mapping"]) else ""
    near = did_you_mean(given, options)
    return f"{key}.{tag} must be one of {', '.join(options)}{own}, got {shown(given)}{near}"


def _place(location: tuple[int | str, ...]) -> tuple[Mapping[str, Any], str, list[str]]:
    """Return the JSON schema at `location`, its dotted key, and the dotted keys that may stand beside it."""
    root = Config.model_json_schema()
    here: Mapping[str, Any] = root
    siblings: list[str] = []
    key = ""
    for step in location:
        here = _without_null(root, here)
        if "discriminator" in here:
            here = _resolved(root, {"$ref": here["discriminator"]["mapping"][step]})
            continue
        entry = _resolved(root, here.get("items", {}))
        if isinstance(step, int) and "properties" in entry:
            here, key = entry, f"{key}[{step}]"
            continue
        if isinstance(member := here.get("additionalProperties"), Mapping):
            here, key = _resolved(root, member), f"{key}.{step}"
            continue
        if "properties" not in here:
            break  # what follows is the member of a union, or an entry of a list of values
        siblings = [f"{key}.{name}".lstrip(".") for name in here["properties"]]
        key = f"{key}.{step}".lstrip(".")
        here = _resolved(root, here["properties"].get(step, {}))
    return here, key, siblings


def _resolved(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    definitions: Mapping[str, Mapping[str, Any]] = root["$defs"]
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _without_null(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    return _resolved(root, options[0]) if len(options) == 1 else schema


def _nearest(key: str, siblings: list[str], values: Mapping[str, Any]) -> str:
    """Return the nearest key on the same level, else the same name elsewhere, else what stands here."""
    group, _, last = key.rpartition(".")
    choices = [] if group else ["experiment"]  # a choice of files, which leaves no setting of its name
    near = did_you_mean(last, [*(name.rpartition(".")[2] for name in siblings), *choices])
    if near:
        return near.replace("mean ", f"mean {group}." if group else "mean ")
    if f"{group}.params" in siblings:
        return f"; did you mean {group}.params.{last}?"  # a function of the user's own takes it
    elsewhere = [name for name, _ in leaves(values) if name.endswith(f".{last}") and name != key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    names = sorted(name.rpartition(".")[2] for name in siblings)
    return f"; {group or 'a run'} has {', '.join(names)}"
