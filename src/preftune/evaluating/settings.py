"""What is measured beside the training loss."""

from typing import Annotated

from pydantic import Field

from preftune.settings import Settings


class EvaluateSettings(Settings):
    """When a run is measured on held-out pairs, and what is sampled from policy and reference then.

    Attributes:
        points: Evaluations after the start, spread evenly over the training; the last is the end.
        prompts: Held-out prompts to sample answers to, for samples, sampled KL and the toy's true reward.
        max_new_tokens: Longest sampled answer, in tokens.
        batch_size: Prompts sampled at once.
    """

    points: Annotated[int, Field(ge=1)]
    prompts: Annotated[int, Field(ge=0)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
