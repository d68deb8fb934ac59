"""A sweep whose jobs Optuna chooses: where its trials are kept, and how many are left to do."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

_TRIALS = "20"  # the plugin's own default


def search_overrides(directory: Path, typed: Sequence[str]) -> list[str]:
    """Return the overrides that let Optuna go on where an earlier start of the same sweep ended.

    Args:
        directory: The sweep's directory, whose last part names the study.
        typed: The overrides as typed; what they set stays, but that `hydra.sweeper.n_trials` counts the complete
            trials of earlier starts, and that they are added to `hydra.sweeper.sampler.seed`.
    """
    pairs = (override.lstrip("+").partition("=") for override in typed)
    given = {key.removeprefix("hydra.sweeper."): value for key, _, value in pairs if key.startswith("hydra.sweeper.")}
    file = directory / "optuna.db"
    done = complete_trials(file)
    settings = {
        "direction": "maximize",
        "storage": f"sqlite:///{file}",
        "study_name": directory.name,
        "n_jobs": "1",  # trials chosen at once, each without knowledge of the others
        "max_failure_rate": "1.0",  # a trial that fails is told to Optuna, and the others go on
        **given,
    }
    settings["n_trials"] = str(max(0, int(given.get("n_trials", _TRIALS)) - done))
    if "sampler.seed" in given:  # from the same seed a new process would draw the first trials again
        settings["sampler.seed"] = str(int(given["sampler.seed"]) + done)
    return [f"hydra.sweeper.{name}={value}" for name, value in settings.items()]


def complete_trials(file: Path) -> int:
    """Return how many trials an Optuna database holds that came to a value."""
    if not file.exists():
        return 0
    with closing(sqlite3.connect(file)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if "trials" not in tables:
            return 0
        count: int = database.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
        return count
