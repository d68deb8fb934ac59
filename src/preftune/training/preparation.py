"""From settings to everything that a training needs: pairs as token ids, the policy, the steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftModel
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedModel

from preftune.data.answers import PreparedAnswers, load_answers, recognised
from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings
from preftune.data.table import PairTable
from preftune.models.memory import resident
from preftune.models.policy import load_policy
from preftune.models.settings import FullSettings, LowRankSettings, ModelSettings
from preftune.models.source import ModelSource, locate
from preftune.models.tokenizer import ChatTokenizer, load_tokenizer
from preftune.pairs import Message
from preftune.refusals import Refusal
from preftune.tokens.answers import TokenizedAnswers, tokenize_answers, unpaired
from preftune.tokens.encoding import control_tokens
from preftune.tokens.tokenization import TokenizedPairs, token_stream, tokenize_splits
from preftune.training import extras
from preftune.training.loss_settings import KtoSettings, LossSettings
from preftune.training.objectives import build_objective
from preftune.training.settings import TrainSettings
from preftune.training.steps import Steps, count_steps


@dataclass(frozen=True, slots=True)
class Prepared:
    """What stands ready before the first step.

    Attributes:
        model: The settings of the model.
        adapter: The settings of what trains.
        source: Where the weights come from.
        chat: The tokenizer with its chat template.
        pairs: The pairs, their ledger and fingerprint.
        rows: Pairs to train on, as ids.
        held_out: Pairs to evaluate on, as ids.
        policy: The model, with the adapter that trains.
        steps: How many steps the rows come to.
        stream: Where the data are streamed, the pairs to train on, as ids; `rows` is then a sample of them.
        labelled: Where labelled answers are trained on as they are, these; there are then no pairs.
        answers: Where answers are trained on each alone, these, as ids, under `train` and `eval`.
        resident_before: Bytes of memory that the process had before the weights.
    """

    model: ModelSettings
    adapter: LowRankSettings | FullSettings
    source: ModelSource
    chat: ChatTokenizer
    pairs: PreparedPairs
    rows: TokenizedPairs
    held_out: TokenizedPairs
    policy: PreTrainedModel | PeftModel
    steps: Steps
    stream: IterableDataset | None = None
    labelled: PreparedAnswers | None = None
    answers: Mapping[str, TokenizedAnswers] = field(default_factory=dict)
    resident_before: int = 0

    def held_out_prompts(self) -> list[tuple[Message, ...]]:
        """Return the prompts of what is evaluated on."""
        if self.labelled is not None:
            return [self.labelled.held_out[place].prompt for place in self.answers["eval"].places]
        return [pair.prompt for pair in self.pairs.held_out.only(self.held_out.rows["row"][:])]

    def labels(self) -> list[tuple[int, int]]:
        """Return how many train answers are desirable and how many are not; nothing where pairs are trained on."""
        labels = [self.answers["train"].desirable] if self.answers else []
        return [(int(desirable.sum()), int((~desirable).sum())) for desirable in labels]

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
    loss: LossSettings,
    seed: int,
) -> Prepared:
    """Check the loss, then load and check everything, the weights last; nothing is trained.

    Raises:
        Refusal: Loss, data, tokenizer, model or batch cannot be used; the message says why.
    """
    objective = None if isinstance(loss, KtoSettings) else build_objective(loss)
    if objective is not None and train.tokens_per_batch is not None and not objective.traits.accumulates:
        raise Refusal(
            "train.tokens_per_batch must be null for a loss that depends on which pairs share a micro-batch, "
            f"got {train.tokens_per_batch}; train.per_device_train_batch_size says how many do"
        )
    source = locate(model)
    chat = load_tokenizer(model, source)
    if objective is None and (found := recognised(data)).dialect == "labelled":
        return _prepare_labelled(model, found, adapter, train, seed, source, chat)
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
    answers = {}
    if objective is None:
        answers = {"train": unpaired(rows), "eval": unpaired(held_out)}
    else:
        extras.refuse_unfit(pairs, rows, held_out, loss, objective)
    steps = _steps(train, None if stream else len(rows.rows), answers)
    before = resident()
    policy = _policy(model, adapter, source, seed)
    return Prepared(
        model,
        adapter,
        source,
        chat,
        pairs,
        rows,
        held_out,
        policy,
        steps,
        stream,
        answers=answers,
        resident_before=before,
    )


def _prepare_labelled(
    model: ModelSettings,
    data: DataSettings,
    adapter: LowRankSettings | FullSettings,
    train: TrainSettings,
    seed: int,
    source: ModelSource,
    chat: ChatTokenizer,
) -> Prepared:
    labelled = load_answers(data, control_tokens(chat))
    tables = {"train": (labelled.train, labelled.ledger.train), "eval": (labelled.held_out, labelled.ledger.held_out)}
    answers = {
        split: tokenize_answers(
            table, chat, account, max_length=train.max_length, overlong=data.overlong, on_bad_row=data.on_bad_row
        )
        for split, (table, account) in tables.items()
    }
    nothing = PairTable([])
    pairs = PreparedPairs(nothing, nothing, labelled.ledger, true_reward=None, fingerprint=labelled.fingerprint())
    rows = TokenizedPairs(Dataset.from_dict({}), nothing, {}, truncated=0)
    steps = _steps(train, None, answers)
    before = resident()
    policy = _policy(model, adapter, source, seed)
    return Prepared(
        model,
        adapter,
        source,
        chat,
        pairs,
        rows,
        rows,
        policy,
        steps,
        labelled=labelled,
        answers=answers,
        resident_before=before,
    )


def _steps(train: TrainSettings, pairs: int | None, answers: Mapping[str, TokenizedAnswers]) -> Steps:
    if answers:
        return count_steps(train, len(answers["train"]), unit="answers")
    return count_steps(train, pairs)


def _policy(
    model: ModelSettings, adapter: LowRankSettings | FullSettings, source: ModelSource, seed: int
) -> PreTrainedModel | PeftModel:
    with Console().status(Text(f"loading the weights of {source.location}")):
        return load_policy(model, adapter, source, seed=seed)
