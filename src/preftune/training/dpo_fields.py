"""Check the keys that pass through to `trl.DPOConfig` against its source.

Nothing of trl, transformers or torch is imported: importing them takes seconds, and a wrong key is refused
before that.
"""

import ast
import functools
import importlib.util
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from preftune.settings import condition, did_you_mean, nearest, shown
from preftune.training.dpo_keys import OWNED, PASSED, REPLACED

_CLASSES = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/dpo_config.py", "DPOConfig"),
)
_ENUMS = (
    ("transformers", "trainer_utils.py", ("SchedulerType", "IntervalStrategy")),
    ("transformers", "training_args.py", ("OptimizerNames",)),
)
_TYPES: dict[str, Any] = {
    "Any": Any,
    "bool": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "list": list,
    "str": str,
}


class _Need(NamedTuple):
    """A key that has an effect only beside some values of another."""

    key: str
    other: str
    default: object
    holds: Callable[[Any], bool]
    words: str


_NEEDS = (
    _Need("eval_steps", "eval_strategy", "no", lambda v: v == "steps", "is steps"),
    _Need("eval_delay", "eval_strategy", "no", lambda v: v != "no", "is steps or epoch"),
    _Need("gradient_checkpointing_kwargs", "gradient_checkpointing", True, bool, "is true or auto"),
    _Need("dataloader_persistent_workers", "dataloader_num_workers", 0, bool, "is at least 1"),
    _Need("dataloader_prefetch_factor", "dataloader_num_workers", 0, bool, "is at least 1"),
    _Need("torch_compile_backend", "torch_compile", False, bool, "is true"),
    _Need("torch_compile_mode", "torch_compile", False, bool, "is true"),
    _Need(
        "optim_target_modules",
        "optim",
        "adamw_torch",
        lambda v: v.startswith(("galore", "apollo")),
        "is a galore or apollo optimizer",
    ),
    *(
        _Need(
            f"adam_{part}",
            "optim",
            "adamw_torch",
            lambda v: not v.startswith(("sgd", "adagrad", "adafactor", "rmsprop")),
            "is an optimizer of Adam's kind",
        )
        for part in ("beta1", "beta2", "epsilon")
    ),
)
_PACKAGES = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu": "torch_npu",
    "adamw_anyprecision": "torchdistx",
}


def faults(keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the keys of `train` that DPOConfig would take.

    Args:
        keys: Everything under `train` but preftune's own keys.

    Returns:
        One sentence a fault, `train.<key> must be <condition>, got <value>`; empty where all hold.
    """
    found = {key: _fault(key, value) for key, value in keys.items()}
    sound = {key: value for key, value in keys.items() if found[key] is None}
    return [fault for fault in found.values() if fault] + list(_disagreements(sound))


@functools.cache
def annotations() -> Mapping[str, ast.expr]:
    """Return the fields of the installed DPOConfig with their annotations, the subclass's own on top."""
    return {
        statement.target.id: statement.annotation
        for package, path, name in _CLASSES
        for statement in _class_body(package, path, name)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


@functools.cache
def kind(key: str) -> TypeAdapter[Any]:
    """Return the type that `key` must have: the range of `PASSED`, or the source's annotation."""
    chosen = PASSED[key] if PASSED[key] is not None else _type_of(annotations()[key])
    return TypeAdapter(chosen, config=ConfigDict(strict=True, allow_inf_nan=False))


def _fault(key: str, value: object) -> str | None:
    where = f"train.{key}"
    remedy = OWNED.get(key) or REPLACED.get(key)
    if remedy:
        return f"{where} must be left out, got {shown(value)}; {remedy}"
    if key not in annotations():
        return f"{where} must be a key of trl.DPOConfig, got {shown(value)}{_nearest(key)}"
    if key not in PASSED:
        return f"{where} must be left out, got {shown(value)}; preftune does not know this new key yet"
    try:
        kind(key).validate_python(value)
    except ValidationError:
        schema = kind(key).json_schema()
        near = did_you_mean(value, schema.get("enum", []))
        return f"{where} must be {condition(schema)}, got {shown(value)}{near}"
    return None


def _nearest(key: str) -> str:
    name = nearest(key, [*PASSED, *OWNED, *REPLACED, "global_batch_size"])
    if name is None:
        return ""
    remedy = OWNED.get(name) or REPLACED.get(name)
    return f"; did you mean train.{name}?" + (f" If so, {remedy}" if remedy else "")


def _disagreements(keys: Mapping[str, Any]) -> Iterator[str]:
    for need in _NEEDS:
        other = keys.get(need.other, need.default)
        if keys.get(need.key) and not need.holds(other):
            yield (
                f"train.{need.key} must be left out unless train.{need.other} {need.words}, "
                f"got {shown(keys[need.key])} beside {shown(other)}"
            )
    for short in ("", "_full_eval"):
        if keys.get(f"bf16{short}") and keys.get(f"fp16{short}"):
            yield f"train.bf16{short} must be false where train.fp16{short} is true, got true"
    yield from _optimizer_faults(keys.get("optim", ""))
    yield from _schedule_faults(keys)


def _optimizer_faults(optim: str) -> Iterator[str]:
    for start, package in _PACKAGES.items():
        if optim.startswith(start) and importlib.util.find_spec(package) is None:
            yield f"train.optim must be an optimizer that is installed, got {optim!r}, which needs {package}"


def _schedule_faults(keys: Mapping[str, Any]) -> Iterator[str]:
    schedule, warmup, steps = (keys.get(key, 0) for key in ("lr_scheduler_type", "warmup_steps", "max_steps"))
    if schedule == "constant" and warmup:
        yield (
            f"train.warmup_steps must be 0 where train.lr_scheduler_type is constant, got {warmup}; "
            "constant_with_warmup warms up"
        )
    if schedule in ("reduce_lr_on_plateau", "greedy") and keys.get("eval_strategy", "no") == "no":
        yield (
            "train.lr_scheduler_type must be a schedule without evaluation where train.eval_strategy is no, "
            f"got {schedule!r}"
        )
    if warmup >= 1 and 1 <= steps <= warmup:
        yield (
            f"train.warmup_steps must be below train.max_steps={steps}, got {warmup}: "
            "the learning rate would never reach its peak; below 1 it is a share of all steps"
        )


def _class_body(package: str, path: str, name: str) -> list[ast.stmt]:
    for node in _source(package, path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node.body
    raise LookupError(f"{package}/{path} must hold the class {name}, got none; install the versions of constraints.txt")


@functools.cache
def _source(package: str, path: str) -> ast.Module:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} must be installed, got none; run make test or pip install -e .")
    return ast.parse((Path(spec.origin).parent / path).read_text(encoding="utf-8"))


@functools.cache
def _choices() -> Mapping[str, tuple[str, ...]]:
    return {
        name: tuple(
            statement.value.value
            for statement in _class_body(package, path, name)
            if isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
        for package, path, names in _ENUMS
        for name in names
    }


def _type_of(annotation: ast.expr) -> Any:
    match annotation:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in _choices():
            return Literal[_choices()[name]]
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Name(id="str")) if _is_choice(left):
            return _type_of(left)  # text is taken for its meaning as a choice, and checked as one
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return operator.or_(_type_of(left) or type(None), _type_of(right) or type(None))
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_type_of(item)]  # type: ignore[misc]
    raise TypeError(f"a field of DPOConfig must have a known type, got {ast.unparse(annotation)}")


def _is_choice(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id in _choices()
