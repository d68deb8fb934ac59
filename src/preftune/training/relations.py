"""What must hold between the method of a run, its engine, and its other settings."""

from collections.abc import Callable

from preftune.data.settings import DataSettings
from preftune.models.settings import ModelSettings
from preftune.training.loss_settings import LossSettings
from preftune.training.settings import TrainSettings


def _a_stream_ends(data: DataSettings, train: TrainSettings) -> str | None:
    if data.streaming and train.dpo.get("max_steps", -1) <= 0:
        return (
            "train.max_steps must be above 0 where data.streaming is true, got "
            f"{train.dpo.get('max_steps', -1)}: how many rows will come is not known"
        )
    return None


def _a_stream_is_read_once(data: DataSettings, train: TrainSettings) -> str | None:
    if data.streaming and train.dpo.get("dataloader_num_workers"):
        return (
            "train.dataloader_num_workers must be 0 where data.streaming is true, got "
            f"{train.dpo['dataloader_num_workers']}: the rows come through one process"
        )
    return None


def _loss_suits_method(method: str, loss: LossSettings) -> str | None:
    if loss.method == method:
        return None
    if method == "kto":
        return f"loss.name must be kto for method=kto, got {loss.name!r}; choose loss=kto"
    return f"loss.name must be a loss of pairs for method={method}, got {loss.name!r}; set method={loss.method}"


def _answers_meet_others(method: str, train: TrainSettings) -> str | None:
    if method == "kto" and train.micro_batch < 2:
        return (
            "train.per_device_train_batch_size must be at least 2 for method=kto, which sets answers against those "
            f"to other prompts, got {train.micro_batch}"
        )
    return None


def _answers_keep_their_order(method: str, train: TrainSettings) -> str | None:
    if method == "kto" and train.dpo.get("train_sampling_strategy", "sequential") != "sequential":
        return (
            "train.train_sampling_strategy must be sequential or left out for method=kto, whose answers are mixed "
            f"once, got {train.dpo['train_sampling_strategy']!r}"
        )
    return None


def _answers_are_not_streamed(method: str, data: DataSettings) -> str | None:
    if method == "kto" and data.streaming:
        return "data.streaming must be false for method=kto, which mixes the answers of the whole set, got true"
    return None


def _answers_carry_no_numbers(method: str, data: DataSettings) -> str | None:
    for field, column in data.extras.given().items() if method == "kto" else ():
        return (
            f"data.extras.{field} must be null for method=kto, which reads no number of a pair, got {column!r}; "
            "loss.desirable_weight and loss.undesirable_weight weigh the answers"
        )
    return None


def _answers_share_no_prompt(method: str, engine: str) -> str | None:
    if method == "kto" and engine == "shared":
        return "engine must be auto or trl for method=kto, whose answers stand alone, got 'shared'"
    return None


def _answers_have_no_budget(method: str, train: TrainSettings) -> str | None:
    if method == "kto" and train.tokens_per_batch is not None:
        return (
            "train.tokens_per_batch must be null for method=kto, which holds train.per_device_train_batch_size "
            f"answers, got {train.tokens_per_batch}"
        )
    return None


def _budget_has_an_engine(engine: str, train: TrainSettings) -> str | None:
    if engine == "trl" and train.tokens_per_batch is not None:
        return (
            "train.tokens_per_batch must be null for engine=trl, which holds train.per_device_train_batch_size pairs, "
            f"got {train.tokens_per_batch}"
        )
    return None


def _attention_computes_alike(deterministic: bool, model: ModelSettings) -> str | None:
    if deterministic and model.attention in ("flex_attention", "flash_attention_3"):
        return (
            "model.attention must be sdpa, eager or flash_attention_2 where deterministic is true, got "
            f"{model.attention!r}, whose kernels do not promise the same bits each time"
        )
    return None


OF_TRAINING: tuple[Callable[..., str | None], ...] = (
    _a_stream_ends,
    _a_stream_is_read_once,
    _loss_suits_method,
    _answers_meet_others,
    _answers_keep_their_order,
    _answers_are_not_streamed,
    _answers_carry_no_numbers,
    _answers_share_no_prompt,
    _answers_have_no_budget,
    _budget_has_an_engine,
    _attention_computes_alike,
)
"""Each takes settings by name and returns what is wrong with them, if anything is."""
