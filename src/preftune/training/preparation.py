"""From settings to everything that a training needs: pairs as token ids, the policy, the steps."""

from dataclasses import dataclass
from typing import Any

from datasets import IterableDataset
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel

from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings
from preftune.models.policy import load_policy
from preftune.models.settings import FullSettings, LowRankSettings, ModelSettings
from preftune.models.source import ModelSource, locate
from preftune.models.tokenizer import ChatTokenizer, load_tokenizer
from preftune.pairs import Message
from preftune.tokens.encoding import control_tokens
from preftune.tokens.tokenization import TokenizedPairs, token_stream, tokenize_splits
from preftune.training.settings import TrainSettings
from preftune.training.steps import UNITS, Steps, count_steps


@dataclass(frozen=True, slots=True)
class Prepared:
    """What stands ready before the first step.

    Attributes:
        source: Where the weights come from.
        chat: The tokenizer with its chat template.
        pairs: The pairs, their ledger and fingerprint.
        rows: Pairs to train on, as ids.
        held_out: Pairs to evaluate on, as ids.
        policy: The model, with the adapter that trains.
        steps: How many steps the rows come to.
        stream: Where the data are streamed, the pairs to train on, as ids; `rows` is then a sample of them.
    """

    source: ModelSource
    chat: ChatTokenizer
    pairs: PreparedPairs
    rows: TokenizedPairs
    held_out: TokenizedPairs
    policy: PreTrainedModel | PeftModel
    steps: Steps
    stream: IterableDataset | None = None

    def held_out_prompts(self) -> list[tuple[Message, ...]]:
        """Return the prompts of the pairs that are evaluated on."""
        return [pair.prompt for pair in self.pairs.held_out.only(self.held_out.rows["row"][:])]

    def manifest(self) -> dict[str, Any]:
        """Return what manifest.json holds of model and data."""
        commit = getattr(self.policy.config, "_commit_hash", None)
        return {
            "model": {"location": self.source.location, "revision": self.source.revision, "commit": commit},
            "template": self.chat.template_hash(),
            "data": {"source": self.pairs.ledger.train.source, "fingerprint": self.pairs.fingerprint},
        }


def prepare(
    model: ModelSettings,
    data: DataSettings,
    adapter: LowRankSettings | FullSettings,
    train: TrainSettings,
    seed: int,
    method: str = "dpo",
) -> Prepared:
    """Load and check everything; nothing is trained.

    Raises:
        Refusal: Data, tokenizer, model or batch cannot be used; the message says why.
    """
    source = locate(model)
    chat = load_tokenizer(model, source)
    pairs = load_pairs(data, control_tokens(chat))
    rows, held_out = tokenize_splits(pairs, chat, train.max_length, data.overlong, data.on_bad_row)
    stream = None
    if pairs.stream is not None:
        stream = token_stream(
            pairs.stream,
            chat,
            max_length=train.max_length,
            overlong=data.overlong,
            on_bad_row=data.on_bad_row,
            seed=seed,
        )
    unit, each = UNITS[method]
    steps = count_steps(train, None if stream else each * len(rows.rows), unit=unit)
    with Console().status(f"loading the weights of {source.location}"):
        policy = load_policy(model, adapter, source, seed=seed)
    return Prepared(source, chat, pairs, rows, held_out, policy, steps, stream)
