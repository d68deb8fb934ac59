"""What a run can choose about where it leaves its results and who watches."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings, shown

PROJECT = r"^[^/\\#?%:]{1,128}$"
_WITH_PROJECT = ("wandb", "trackio")


class RunSettings(Settings):
    """The run's directory.

    Attributes:
        dir: Where it stands; null names it after the run's identity, below `runs/`.
        allow_change: Keys that may differ from the start that the directory holds: of settings, `versions.<package>`,
            `code`.
    """

    dir: Annotated[str, Field(min_length=1)] | None
    allow_change: list[Annotated[str, Field(min_length=1)]]


class SweepSettings(Settings):
    """What becomes of the jobs of -m.

    Attributes:
        name: Results stand in `sweeps/<name>`; null names it after the axes that vary.
        objective: What ranks the jobs, the larger the better: a key of the summary without beta in it; `auto` is the
            true reward where it is known, else held-out accuracy.
        fail_fast: Whether the first job that fails keeps those that have not begun from running.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")] | None
    objective: Literal["auto", "eval.accuracy", "eval.logratio_margin", "true_reward.policy.mean", "win_rate"]
    fail_fast: bool


class TrackSettings(Settings):
    r"""Where metrics go beside the run's own directory.

    Attributes:
        name: `wandb`, `trackio`, `tensorboard` or `none`.
        project: Project of W&B or Trackio: up to 128 characters, none of `/ \ # ? % :`.
        entity: W&B user or team; null is the account's default.
        tags: W&B tags, each of 1 to 64 characters.
        log_adapter: Whether W&B keeps the trained adapter, too, as an artifact of the run.
    """

    name: Literal["wandb", "trackio", "tensorboard", "none"]
    project: Annotated[str, Field(pattern=PROJECT)] | None = None
    entity: str | None = None
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)
    log_adapter: bool = False

    @model_validator(mode="after")
    def _fits_its_name(self) -> "TrackSettings":
        if self.name in _WITH_PROJECT and self.project is None:
            raise ValueError(f"track.project must be a name for track={self.name}, got null")
        of_wandb = {"entity": self.entity, "tags": self.tags, "log_adapter": self.log_adapter}
        no_effect = {} if self.name == "wandb" else of_wandb
        if self.name not in _WITH_PROJECT:
            no_effect = {"project": self.project} | no_effect
        for key, value in no_effect.items():
            if value:
                raise ValueError(
                    f"track.{key} must be left out for track={self.name}, got {shown(value)}; choose track=wandb"
                )
        return self

    @model_validator(mode="after")
    def _is_installed(self) -> "TrackSettings":
        if self.name == "trackio" and find_spec("trackio") is None:
            raise ValueError(
                "track must be a tracker that is installed, got trackio; `pip install 'trackio>=0.43'` installs it"
            )
        return self


class LaunchSettings(Settings):
    """Where the job runs: `inline`, in this process."""

    name: Literal["inline"]
