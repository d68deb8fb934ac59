"""Functions of the user's own, by dotted path."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from preftune.refusals import Refusal
from preftune.spelling import did_you_mean

FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError),
)
"""What code that is not ours may raise."""


def function_at(path: str, key: str) -> Callable[..., Any]:
    """Return the function that `path`, `module.function`, names; modules of the working directory are found.

    Args:
        path: What the user gave.
        key: The setting that it was given for, which a refusal names.

    Raises:
        Refusal: The module cannot be imported, or holds no such function.
    """
    module_name, _, name = path.rpartition(".")
    _look_in_the_working_directory()
    try:
        module = importlib.import_module(module_name)
    except FAULTS as fault:
        raise Refusal(
            f"{key} must name a function of a module that can be imported, got {path!r}, whose module gives "
            f"{type(fault).__name__}: {fault}; it is looked for in the working directory and among what is installed"
        ) from fault
    function = getattr(module, name, None)
    if function is None:
        own = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise Refusal(f"{key} must name a function of {module_name}, got {name!r}{did_you_mean(name, own)}")
    if not callable(function):
        raise Refusal(f"{key} must name a function, got {path!r}, a value of type {type(function).__name__}")
    return function  # type: ignore[no-any-return]  # a value of a module that no one typed


def source_file(path: str) -> Path | None:
    """Return the file of the module that `path`, `module.function`, names, or none where no file holds it.

    Nothing is imported, not even the packages around the module.
    """
    _look_in_the_working_directory()
    first, *rest = path.rpartition(".")[0].split(".")
    try:
        spec = importlib.util.find_spec(first) if first else None
    except ValueError:  # a module in memory that has no spec
        return None
    name = first
    for part in rest:
        name = f"{name}.{part}"
        within = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(name, within) if within else None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _look_in_the_working_directory() -> None:
    """Find modules as `python -m` does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
