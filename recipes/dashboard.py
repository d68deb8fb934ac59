"""Build a W&B workspace and report of a project's runs; without credentials or an answer, write them to a file."""

import argparse
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from preftune.refusals import Refusal, RunFailed
from preftune.runs import tracking
from preftune.runs.exits import exits
from preftune.runs.files import write_json
from preftune.runs.settings import PROJECT


def main() -> None:
    """Publish both, or write their specification."""
    parser = argparse.ArgumentParser(prog="python -m recipes.dashboard", description=__doc__)
    parser.add_argument("--project", default="preftune", help="whose runs are shown; preftune by default")
    parser.add_argument("--entity", help="W&B user or team; by default the account's own")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the specification to FILE and publish nothing")
    asked = parser.parse_args()
    with exits():
        sys.stdout.write(build(asked.project, asked.entity, asked.out) + "\n")


def build(project: str, entity: str | None, out: Path | None) -> str:
    """Return what was made, and where it is.

    Raises:
        Refusal: wandb-workspaces is not installed, or W&B has no project of that name.
        RunFailed: The server does not take them.
    """
    if find_spec("wandb_workspaces") is None:
        raise Refusal(
            "recipes.dashboard must have the package wandb-workspaces, got none; "
            "`pip install 'wandb-workspaces>=0.4'` installs it"
        )
    if not re.fullmatch(PROJECT, project):
        raise Refusal(f"--project must be a name of 1 to 128 characters, none of / \\ # ? % :, got {project!r}")
    from preftune.reporting import dashboard

    reason = f"--out {out}" if out else tracking.log_in()
    if reason is None:
        refused: tuple[type[Exception], ...] = (*tracking.failures(), ValueError)
        try:
            return "\n".join(dashboard.publish(project, entity))
        except refused as error:
            raise RunFailed(f"W&B must take the dashboard, got {error}; --out FILE writes it to a file") from error
    file = out or Path(f"dashboard-{project}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dashboard.specification(project, entity or ""))
    again = f"`wandb login`, then `python -m recipes.dashboard --project {project}`"
    return f"{file} holds the workspace and the report; nothing is published ({reason}). To publish: {again}"


if __name__ == "__main__":
    main()
