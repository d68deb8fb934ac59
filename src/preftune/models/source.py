"""From a model recipe to a place that `from_pretrained` accepts, with refusals a person can act on."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preftune.models.settings import ModelSettings
from preftune.refusals import Refusal


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where weights and tokenizer come from.

    Attributes:
        location: A local directory or a hub id.
        revision: Branch, tag or commit; None for a directory.
    """

    location: str
    revision: str | None

    @property
    def is_local(self) -> bool:
        """True for a directory on this machine."""
        return self.revision is None


def locate(settings: ModelSettings) -> ModelSource:
    """Return where `settings` takes its weights from; the toy world trains its model here on first use.

    Raises:
        Refusal: `model.path` is no directory with a model in it.
    """
    if settings.source == "toy":
        from preftune.toy.model import model_directory

        return ModelSource(str(model_directory()), None)
    if settings.path is None:
        return ModelSource(settings.id or "", settings.revision or "main")
    directory = Path(settings.path).expanduser()
    if not (directory / "config.json").is_file():
        raise Refusal(f"model.path must be a directory that holds config.json, got {settings.path}")
    return ModelSource(str(directory), None)


@contextmanager
def reachable(source: ModelSource, part: str) -> Iterator[None]:
    """Turn the hub's failures while `part` is loaded into a sentence.

    Raises:
        Refusal: The hub cannot be reached, the repository is gated or unknown, or a local file is broken.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        if "trust_remote_code" in str(error):
            raise Refusal(
                f"{source.location} must be a model of a kind that transformers has itself, got one that brings code "
                f"of its own for its {part}, which is never run; choose another model, or a copy without that code"
            ) from error
        if source.is_local:
            raise Refusal(
                f"{part} must load from {source.location}, got {type(error).__name__}: {_first_line(error)}"
            ) from error
        if any(isinstance(cause, GatedRepoError) for cause in _causes(error)):
            raise Refusal(
                f"{source.location} is gated: accept its licence on its hub page and set HF_TOKEN in the "
                "environment, or set model.path to a local copy"
            ) from error
        if any(isinstance(cause, RepositoryNotFoundError) for cause in _causes(error)):
            raise Refusal(
                f"{source.location} must be a model on the hub, got none of that name at revision "
                f"{source.revision}; mend model.id, or set model.path to a local copy"
            ) from error
        raise Refusal(
            f"{source.location} could not be reached on the hub for its {part} (revision {source.revision}): "
            "set model.path to a local copy, or fill the hub's cache on a machine with a network and set "
            f"HF_HUB_OFFLINE=1 ({_first_line(error)})"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
