"""What a run can choose about where it leaves its results and who watches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings


class RunSettings(Settings):
    """Where the run's directory stands; null names it after the run's identity, below `runs/`."""

    dir: Annotated[str, Field(min_length=1)] | None


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
    tags: Annotated[list[str], Field(default_factory=list)]

    @model_validator(mode="after")
    def _has_an_effect(self) -> "TrackSettings":
        for key in ("project", "entity", "tags"):
            if self.name != "wandb" and getattr(self, key):
                raise ValueError(
                    f"track.{key} must be left out for track={self.name}, got {getattr(self, key)!r}; "
                    "choose track=wandb"
                )
        return self


class LaunchSettings(Settings):
    """Where the job runs: `inline`, in this process."""

    name: Literal["inline"]
