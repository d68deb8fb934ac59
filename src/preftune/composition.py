"""Runs composed of files and overrides without Hydra's struct mode, which would stop at the first unknown key."""

import copy
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from preftune import config
from preftune.settings import did_you_mean, shown


class Composed:
    """Composes runs, each choice of groups once."""

    def __init__(self, config_name: str, hydra: list[str]) -> None:
        self.config_name = config_name
        self.hydra = hydra
        self.known: dict[tuple[str, ...], DictConfig] = {}

    def faults(self, groups: list[str], values: list[Override]) -> tuple[list[str], dict[str, Any] | None]:
        """Return the faults of one job, and where there is none its resolved configuration."""
        try:
            if tuple(groups) not in self.known:
                self.known[tuple(groups)] = compose(self.config_name, self.hydra + groups)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            return [f"{' '.join(groups + self.hydra)} must be choices that fit together: {reason}"], None
        run = copy.deepcopy(self.known[tuple(groups)])
        OmegaConf.set_struct(run, False)
        faults = [fault for override in values if (fault := _merge(run, override))]
        faults += config.forbidden(run)
        try:
            resolved: Any = OmegaConf.to_container(run, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            fault = f"{error.full_key} must be a value or refer to one: {reason}"
            return faults + ([] if _said(fault, faults) else [fault]), None
        faults += [fault for fault in config.faults(resolved) if not _said(fault, faults)]
        return faults, None if faults else resolved


def _said(fault: str, faults: list[str]) -> bool:
    """Return whether the key of `fault`, or a key within it, is refused already; its value may be secret."""
    key = fault.partition(" ")[0]
    return any(f"{other.partition(' ')[0]}.".startswith(f"{key}.") for other in faults)


def _merge(run: DictConfig, override: Override) -> str | None:
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        parent, _, last = key.rpartition(".")
        group = OmegaConf.select(run, parent) if parent else run
        if not isinstance(group, DictConfig) or last not in group:
            near = did_you_mean(key, [name for name, _ in config.leaves(OmegaConf.to_container(run))])
            return f"{key} must be a setting that is there to delete, got none{near}"
        del group[last]
        return None
    try:
        OmegaConf.update(run, key, value, merge=True, force_add=True)
    except OmegaConfBaseException as error:
        return f"{key} must be a known setting, got {shown(value)}: {str(error).splitlines()[0]}"
    return None
