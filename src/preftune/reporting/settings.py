"""From where on a run is in a state that a person must hear of."""

from typing import Annotated, Literal

from pydantic import Field

from preftune.settings import Settings


class GuardSettings(Settings):
    """The thresholds of the verdict, and what it may stop.

    Attributes:
        displaced: Fall of the chosen answers' log-probability from the start, in nats per token, above 0, beyond which
            the policy is displaced.
        collapsed: Fall of both answers' log-probabilities, in nats per token, above 0, beyond which it has collapsed.
        saturated_accuracy: Share of held-out pairs, above 0.5 and at most 1, from which on nothing is left to learn,
            where the loss is at most `saturated_loss`.
        saturated_loss: Held-out loss, in nats, above 0, up to which that is so, where the margin of rewards has run
            off as far as a sigmoid loss of this size takes.
        learned: Rise of the accuracy over one half, in [0, 0.5), below which nothing was learned.
        spike: How many deviations a step's loss may lie above the median of the steps before it, at least 1; beyond
            that it is a spike. None looks for none.
        rollback: How many batches may be left out of the training, at least 0: where a step's loss or gradient, or the
            weights after it, are NaN or infinite, or its loss is a spike that `stop_on` names, it goes back to the
            newest checkpoint and on without that batch.
        stop_on: States in which training stops at the evaluation point that finds them. `not_learning` is judged at
            the end alone; at a `spike` training stops after its step.
    """

    displaced: Annotated[float, Field(gt=0)]
    collapsed: Annotated[float, Field(gt=0)]
    saturated_accuracy: Annotated[float, Field(gt=0.5, le=1)]
    saturated_loss: Annotated[float, Field(gt=0)]
    learned: Annotated[float, Field(ge=0, lt=0.5)]
    spike: Annotated[float, Field(ge=1)] | None
    rollback: Annotated[int, Field(ge=0)]
    stop_on: list[Literal["displaced", "collapsed", "saturated", "spike"]]
