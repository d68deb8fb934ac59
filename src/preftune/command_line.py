"""Refuse a wrong command line before Hydra runs it and before anything heavy is imported.

1. Hydra's own parser reads each override; a bad one is named, and the others are still looked at.
2. Groups choose among the files that exist; values are merged without Hydra's struct mode, which would stop
   at the first unknown key.
3. Every job of a sweep is built that way and checked by `config.faults`.
4. All faults are shown at once, each key as it was typed.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from preftune import config
from preftune.composition import Composed
from preftune.overrides import every_job, examples, is_hydra, raw_value, searches, sweep_fault
from preftune.refusals import SECRET, hidden, refuse_all
from preftune.settings import did_you_mean, shown

# A key that has no effect where the second one is set.
_OVERRULED = (
    ("train.num_train_epochs", "train.max_steps"),
    ("model.learning_rate", "train.learning_rate"),
    ("model.id", "model.path"),
    ("model.revision", "model.path"),
    ("data.id", "data.path"),
    ("data.revision", "data.path"),
    ("data.split", "data.path"),
    ("data.test_split", "data.path"),
)


class CommandLine(NamedTuple):
    """A command line that was checked.

    Attributes:
        argv: What Hydra takes.
        typed: The overrides as typed.
        axes: Keys and groups of which -m gives several values.
        jobs: Overrides and resolved configuration of each job that -m asks for.
        search: Where a sweeper chooses the jobs, the overrides that say among which; `jobs` are then examples, which
            hold each value, or each end of an interval, at least once.
    """

    argv: list[str]
    typed: list[str]
    axes: list[str]
    jobs: list[tuple[list[str], dict[str, Any]]]
    search: list[str]


# Hydra's sweepers and launchers that a sweep works with, and the extra that installs each.
_EXTRAS = {"optuna": "optuna", "joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}


def checked(argv: list[str], choices: Path, *, sweeps: bool = True) -> list[str]:
    """Return what Hydra takes of a command line that `read` has checked."""
    return read(argv, choices, sweeps=sweeps).argv


def read(argv: list[str], choices: Path, *, sweeps: bool = True) -> CommandLine:
    """Check a command line and bring it into a form that Hydra takes without `+`.

    Args:
        argv: What follows the program's name.
        choices: The directory that holds `run.yaml` and the groups.
        sweeps: Whether the program can do several runs with `-m`.

    Returns:
        The same command line, where a key that exists needs no `+` even if no file of `conf/` lists it, and
        `--cfg job` prints values in place of interpolations; without jobs where it asks for help.

    Raises:
        Refusal: Anything in it is wrong; the message holds one line per fault.
    """
    argv = _with_room_for_a_loss(argv)
    flags = _flags(argv)
    if flags.help or flags.hydra_help or flags.shell_completion:
        return CommandLine(argv, [], [], [], [])
    refuse_all(_flag_faults(flags, sweeps=sweeps))
    typed, faults = _parsed(flags.overrides)
    faults += _faults_as_typed(typed, multirun=flags.multirun)
    with initialize_config_dir(str(choices.resolve()), job_name="run", version_base="1.3"):
        command = _Command(typed, flags.config_name or "run", flags.config_dir)
        faults += command.faults()
        refuse_all(list(dict.fromkeys(command.as_typed(fault) for fault in faults)))
        mended = {override.input_line: command.for_hydra(override) for override in typed}
    resolved = ["--resolve"] if flags.cfg == "job" and not flags.resolve else []
    hydra = [*(mended.get(argument, argument) for argument in argv), *resolved]
    varied = [override for override in typed if override.is_sweep_override()]
    search = [override.input_line or "" for override in varied] if command.searches else []
    jobs = command.jobs if flags.multirun and not flags.cfg and not flags.info else []
    return CommandLine(hydra, flags.overrides, [o.key_or_group for o in varied], jobs, search)


def _flags(argv: list[str]) -> argparse.Namespace:
    """Return what Hydra's own parser reads; what it says of a wrong flag is shown without a secret."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return get_args_parser().parse_args(argv)
    except SystemExit:
        sys.stderr.write(SECRET.sub("(hidden)", hidden(said.getvalue())))
        raise


def _with_room_for_a_loss(argv: list[str]) -> list[str]:
    """Choose the file without parameters where `loss.name` is a function of the user's own and no file was chosen."""
    named = [argument for argument in argv if argument.lstrip("+").startswith("loss.name=") and "." in argument[10:]]
    chosen = [argument for argument in argv if argument.startswith("loss=")]
    return [*argv, "loss=custom"] if named and not chosen else argv


class _Command:
    """The overrides of one command line, beside the choices that exist."""

    def __init__(self, typed: list[Override], config_name: str, config_dir: str | None) -> None:
        self.typed = typed
        self.config_name = config_name
        self.loader = GlobalHydra.instance().config_loader()
        self.hydra = [override.input_line or "" for override in typed if is_hydra(override)]
        if config_dir:
            self.hydra.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
        self.groups = [group for group in self._options("", ObjectType.GROUP) if group != "hydra"]
        self.searches = searches(typed)
        self.jobs: list[tuple[list[str], dict[str, Any]]] = []

    def faults(self) -> list[str]:
        """Return what is wrong with the choices, and with the values of each job."""
        faults = [fault for o in self.typed if (fault := _hydra_fault(o) or self._plugin_fault(o))]
        if faults:
            return faults  # nothing is composed with them
        composed = Composed(self.config_name, self.hydra)
        directories = []
        for job in self._jobs():
            wrong = {o.key_or_group: fault for o in job if (fault := self._choice_fault(o))}
            sound = [override for override in job if override.key_or_group not in wrong]
            chosen = [_bare(override.input_line or "") for override in sound if self._is_group(override)]
            found, resolved = composed.faults(chosen, [o for o in sound if not self._is_group(o)])
            faults += [*wrong.values(), *found]
            if resolved:
                directories.append(resolved["run"]["dir"])
                self.jobs.append(([override.input_line or "" for override in job], resolved))
        return faults + _shared_directory(directories)

    def as_typed(self, fault: str) -> str:
        """Return `fault` with its key as the person wrote it, with `+` or `~`, and no secret of theirs."""
        key, _, rest = fault.partition(" ")
        spelled = next((o.get_key_element() for o in self.typed if o.key_or_group == key), key)
        return SECRET.sub("(hidden)", hidden(f"{spelled} {rest}"))

    def for_hydra(self, override: Override) -> str:
        """Return an override that Hydra takes whether or not a file lists its key."""
        line = override.input_line or ""
        if is_hydra(override) or override.is_delete():
            return line
        return _bare(line) if self._is_group(override) else f"++{_bare(line)}"

    def _is_group(self, override: Override) -> bool:
        return override.key_or_group in self.groups and not isinstance(override.value(), dict)

    def _options(self, group: str, kind: ObjectType) -> list[str]:
        return sorted(self.loader.get_group_options(group, kind, self.config_name, self.hydra))

    def _choice_fault(self, override: Override) -> str | None:
        key, value = override.key_or_group, override.value()
        if "/" in key or override.package:
            groups = ", ".join(self.groups)
            return f"{key} must be one of the groups {groups}, got {shown(override.get_key_element())}"
        if not self._is_group(override):
            return None
        options = self._options(key, ObjectType.CONFIG)
        if override.is_delete():
            return f"{key} must stay, since a run takes one of {', '.join(options)}, got a deletion"
        if value in options or (key == "experiment" and value is None):
            return None
        return f"{key} must be one of {', '.join(options)}, got {shown(value)}{did_you_mean(value, options)}"

    def _plugin_fault(self, override: Override) -> str | None:
        key, value = override.key_or_group, override.value()
        if key not in ("hydra/sweeper", "hydra/launcher"):
            return None
        options = sorted({*self._options(key, ObjectType.CONFIG)} & {"basic", *_EXTRAS})
        if value in options:
            return None
        extra = f"; pip install '.[{_EXTRAS[str(value)]}]' adds it" if value in _EXTRAS else ""
        return f"{key} must be one of {', '.join(options)}, got {shown(value)}{extra}"

    def _jobs(self) -> Iterator[list[Override]]:
        overrides = [o for o in self.typed if not is_hydra(o) and not sweep_fault(o, self.searches)]
        for override in overrides:
            override.config_loader = self.loader
        parser = OverridesParser.create(config_loader=self.loader)
        for job in examples(overrides) if self.searches else every_job(overrides):
            yield parser.parse_overrides(job)


def _bare(line: str) -> str:
    return line.lstrip("+")


def _hydra_fault(override: Override) -> str | None:
    line = override.input_line or ""
    if not is_hydra(override):
        return None
    if "_target_" in line:
        return f"{override.key_or_group} must hold no _target_, got one; a configuration names no code to run"
    return config.forbidden_setting(override.key_or_group, line.partition("=")[2])


def _shared_directory(directories: list[str | None]) -> list[str]:
    named = [directory for directory in directories if directory]
    if len(named) == len(set(named)):
        return []
    return [f"run.dir must be null or differ between the jobs of -m, got {named[0]!r} for {len(named)} jobs"]


def _flag_faults(flags: argparse.Namespace, *, sweeps: bool) -> list[str]:
    faults = []
    if flags.multirun and not sweeps:
        faults.append("-m must be left out, since this program looks at one run at a time")
    if flags.config_path:
        faults.append(f"--config-path must be left out, got {flags.config_path!r}; --config-dir adds choices")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        faults.append(f"--config-dir must be a directory, got {flags.config_dir!r}")
    return faults


def _parsed(lines: list[str]) -> tuple[list[Override], list[str]]:
    parser = OverridesParser.create()
    overrides, faults = [], []
    for line in lines:
        try:
            overrides += parser.parse_overrides([line])
        except HydraException:
            faults.append(f"{line.partition('=')[0]} must be of the form key=value, got {shown(line)}")
    return overrides, faults


def _faults_as_typed(typed: list[Override], *, multirun: bool) -> list[str]:
    lines: dict[str, list[str]] = {}
    for override in typed:
        lines.setdefault(override.key_or_group, []).append(raw_value(override))
    faults = [f"{key} must be given once, got {' and '.join(again)}" for key, again in lines.items() if len(again) > 1]
    for loser, winner in _OVERRULED:
        if loser in lines and winner in lines:
            faults.append(f"{loser} must be left out where {winner} is given, got {lines[loser][0]}")
    faults += [fault for override in typed if (fault := sweep_fault(override, searches(typed)))]
    for override in typed:
        if override.is_sweep_override() and not multirun:
            faults.append(
                f"{override.key_or_group} must be one value without -m, got {raw_value(override)}; "
                "add -m to run each, or quote it"
            )
    return faults
