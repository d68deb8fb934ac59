"""What a model recipe and an adapter can choose."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings

DType = Literal["float32", "bfloat16", "float16"]


class ModelSettings(Settings):
    """One model recipe.

    Attributes:
        name: Names the recipe in the run's directory.
        source: Where weights come from: a hub id, a local directory, or the toy world.
        id: Hub id. `path` stands in for it.
        revision: Branch, tag or commit of `id`.
        path: Local directory with config, safetensors and tokenizer.
        dtype: Type of the base weights, and of the computation where they are quantised.
        quantization: `nf4` (4-bit NormalFloat, double quantisation), `int8`, or null.
        attention: Implementation of attention, by transformers' name.
        target_modules: Modules that an adapter wraps, or `all-linear`: every linear layer but the head.
        pad_token: Token that fills up short sequences; null keeps the tokenizer's own.
        end_of_turn: Token that ends the assistant's turn in the chat template.
        start: What the weights were trained to be: `instruct`, `sft` or `base`.
        chat_template: Jinja file with a chat template, for tokenizers that have none.
        learning_rate: What suits an adapter on this model; `train.learning_rate` takes it from here.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    source: Literal["hub", "local", "toy"]
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    dtype: DType
    quantization: Literal["nf4", "int8"] | None
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"]
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)]
    pad_token: str | None
    end_of_turn: str | None
    start: Literal["instruct", "sft", "base"]
    chat_template: str | None = None
    learning_rate: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _has_a_source(self) -> "ModelSettings":
        if self.source == "hub" and not (self.id or self.path):
            raise ValueError("model.id must name a model, or model.path a local copy of it, got neither")
        if self.source == "local" and not self.path:
            raise ValueError("model.path must name a local directory, got null")
        return self

    @model_validator(mode="after")
    def _toy_loads_nothing(self) -> "ModelSettings":
        for key in ("id", "path", "revision", "chat_template"):
            if self.source == "toy" and getattr(self, key) is not None:
                raise ValueError(
                    f"model.{key} must be null for model=tiny, which trains its own model, "
                    f"got {getattr(self, key)!r}; choose model=local"
                )
        return self


class LowRankSettings(Settings):
    """A low-rank adapter beside frozen weights.

    Attributes:
        name: `lora`, or `dora`: LoRA with a learned magnitude.
        r: Rank.
        alpha: The update is scaled by `alpha / r`.
        dropout: Share of adapter inputs set to zero in training.
        dtype: Type of the adapter's weights. In bfloat16 small updates round to zero.
        modules_to_save: Modules trained in full beside the adapter.
        path: An earlier adapter to go on from.
    """

    name: Literal["lora", "dora"]
    r: Annotated[int, Field(ge=1, le=4096)]
    alpha: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    dtype: Literal["float32", "bfloat16"]
    modules_to_save: list[str]
    path: str | None


class FullSettings(Settings):
    """Every weight is trained; there is no adapter."""

    name: Literal["full"]


AdapterSettings = Annotated[LowRankSettings | FullSettings, Field(discriminator="name")]
