"""What a run can choose about where it leaves its results and who watches."""

from typing import Annotated, Literal

from pydantic import Field

from preftune.settings import Settings


class RunSettings(Settings):
    """Where the run's directory stands; null names it after the run's identity, below `runs/`."""

    dir: str | None


class SweepSettings(Settings):
    """How a sweep is called."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class TrackSettings(Settings):
    """Where metrics go beside the run's own directory.

    Attributes:
        name: `wandb`, `tensorboard` or `none`.
        project: W&B project.
        entity: W&B user or team; null is the account's default.
        tags: W&B tags.
    """

    name: Literal["wandb", "tensorboard", "none"]
    project: str | None = None
    entity: str | None = None
    tags: list[str] = []


class LaunchSettings(Settings):
    """Where the job runs: `inline`, in this process."""

    name: Literal["inline"]
