"""Overrides of a command line as Hydra parses them: which of them vary, and what jobs they make."""

from collections.abc import Iterator

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException


def is_hydra(override: Override) -> bool:
    """Tell whether an override is of Hydra itself."""
    return override.key_or_group.replace("/", ".").partition(".")[0] == "hydra"


def raw_value(override: Override) -> str:
    """Return the value as typed."""
    return (override.input_line or "").partition("=")[2]


def searches(overrides: list[Override]) -> bool:
    """Tell whether a sweeper chooses the jobs, and not the product of all values."""
    return any(override.key_or_group == "hydra/sweeper" and override.value() != "basic" for override in overrides)


def every_job(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each job: the product of all values."""
    jobs: list[list[str]] = BasicSweeper.split_arguments(overrides, None)[0]
    return jobs


def examples(overrides: list[Override]) -> Iterator[list[str]]:
    """Yield jobs that hold every value at least once; of an interval its two ends."""
    values = {override.get_key_element(): _values(override) for override in overrides}
    first = {key: found[0] for key, found in values.items()}
    others = ({**first, key: value} for key, found in values.items() for value in found[1:])
    for job in (first, *others):
        yield [f"{key}={value}" for key, value in job.items()]


def sweep_fault(override: Override, searching: bool = False) -> str | None:
    """Return what is wrong with the values of an override that varies; an interval is for a sweeper that searches."""
    if not override.is_sweep_override() or (searching and override.is_interval_sweep()):
        return None
    try:
        count = sum(1 for _ in override.sweep_iterator()) if not override.is_choice_sweep() else 1
    except (HydraException, ValueError):
        count = 0
    return None if count else f"{override.key_or_group} must be values or a range, got {raw_value(override)}"


def _values(override: Override) -> list[str]:
    if isinstance(interval := override.value(), IntervalSweep):
        return [str(interval.start), str(interval.end)]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]
