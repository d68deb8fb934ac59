"""What a run can choose about where it leaves its results and who watches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings


class RunSettings(Settings):
    """Where the run's directory stands; null names it after the run's identity, below `runs/`."""

    dir: Annotated[str, Field(min_length=1)] | None


class SweepSettings(Settings):
    """What becomes of the jobs of -m.

    Attributes:
        name: Results stand in `sweeps/<name>`; null names it after the axes that vary.
        objective: What ranks the jobs, the larger the better: a key of the summary without beta in it; `auto` is the
            true reward where it is known, else held-out accuracy.
        fail_fast: Whether the first job that fails keeps those that have not begun from running.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None
    objective: Literal["auto", "eval.accuracy", "eval.logratio_margin", "true_reward.policy.mean", "win_rate"]
    fail_fast: bool


class TrackSettings(Settings):
    r"""Where metrics go beside the run's own directory.

    Attributes:
        name: `wandb`, `tensorboard` or `none`.
        project: W&B project: up to 128 characters, none of `/ \ # ? % :`.
        entity: W&B user or team; null is the account's default.
        tags: W&B tags, each of 1 to 64 characters.
    """

    name: Literal["wandb", "tensorboard", "none"]
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] | None = None
    entity: str | None = None
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_its_name(self) -> "TrackSettings":
        if self.name == "wandb" and self.project is None:
            raise ValueError("track.project must be a name for track=wandb, got null")
        for key, value in {"project": self.project, "entity": self.entity, "tags": self.tags}.items():
            if self.name != "wandb" and value:
                raise ValueError(
                    f"track.{key} must be left out for track={self.name}, got {value!r}; choose track=wandb"
                )
        return self


class LaunchSettings(Settings):
    """Where the job runs: `inline`, in this process."""

    name: Literal["inline"]
