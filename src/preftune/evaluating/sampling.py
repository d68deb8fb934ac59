"""What the policy says: answers of policy and reference to the same prompts, and how far apart the two are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from preftune.evaluating.settings import EvaluateSettings
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import Message
from preftune.refusals import RunFailed
from preftune.tokens.tokenization import prompt_ids

Acting = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts with its standard error."""

    mean: float
    stderr: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate the mean of independent `values`; one value alone has no standard error, so NaN."""
        spread = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return cls(fmean(values), spread)

    def to_json(self) -> dict[str, float]:
        """Return the fields by name."""
        return {"mean": self.mean, "stderr": self.stderr}


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one model said.

    Attributes:
        texts: One answer a prompt, without end token.
        lengths: Tokens of each, end token included.
    """

    texts: list[str]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of policy and reference to the same prompts.

    Attributes:
        prompts: The dialogues.
        reference: What the reference said.
        policy: What the policy said.
        kl: For each prompt, log pi(y) - log ref(y) of the policy's own answer, in nats over the sampled tokens.
    """

    prompts: list[tuple[Message, ...]]
    reference: Spoken
    policy: Spoken
    kl: list[float]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row a prompt, as samples.jsonl holds them."""
        for row in zip(self.prompts, self.reference.texts, self.policy.texts, self.kl, strict=True):
            yield dict(zip(("prompt", "reference", "policy", "kl"), row, strict=True))


def sample_reference(
    reference: Acting,
    chat: ChatTokenizer,
    prompts: Sequence[tuple[Message, ...]],
    settings: EvaluateSettings,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Spoken:
    """Sample one answer a prompt, at temperature 1 and without a cut of the tail.

    Args:
        reference: Gives the model that acts as the reference.
        chat: Tokenizer with its chat template.
        prompts: Dialogues that end with the user's turn.
        settings: Longest answer and batch.
        seed: Of the sampling.
        advance: Told how many prompts were done.
    """
    spoken = Spoken([], [])
    for start, batch in _batches(chat, prompts, settings):
        with reference() as model:
            _add(spoken, _generate(model, chat, batch, settings.max_new_tokens, seed + start), chat)
        advance(len(batch))
    return spoken


def sample_policy(
    policy: Acting,
    reference: Acting,
    chat: ChatTokenizer,
    prompts: Sequence[tuple[Message, ...]],
    settings: EvaluateSettings,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Spoken, list[float]]:
    """Sample one answer a prompt from the policy, and measure on it how far the policy is from its reference.

    Args:
        policy: Gives the model that acts as the policy.
        reference: Gives the model that acts as the reference, which scores the policy's answers.
        chat: As of `sample_reference`, and so are the others: both models draw from the same seed.
        prompts: See there.
        settings: See there.
        seed: See there.
        advance: See there.

    Returns:
        What the policy said, and log pi(y) - log ref(y) of each of its answers, in nats.
    """
    spoken, kl = Spoken([], []), []
    for start, batch in _batches(chat, prompts, settings):
        with policy() as model:
            drawn = _generate(model, chat, batch, settings.max_new_tokens, seed + start)
            own = _score(model, drawn)
        _add(spoken, drawn, chat)
        with reference() as model:
            kl.extend((own - _score(model, drawn)).tolist())
        advance(len(batch))
    return spoken, kl


def _batches(
    chat: ChatTokenizer, prompts: Sequence[tuple[Message, ...]], settings: EvaluateSettings
) -> Iterator[tuple[int, list[list[int]]]]:
    for start in range(0, len(prompts), settings.batch_size):
        yield start, [prompt_ids(prompt, chat) for prompt in prompts[start : start + settings.batch_size]]


def _add(spoken: Spoken, drawn: "_Drawn", chat: ChatTokenizer) -> None:
    spoken.texts.extend(_texts(drawn, chat))
    spoken.lengths.extend(drawn.answered.sum(dim=1).tolist())


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Prompts, padded on the left, and the answers that were drawn to them.

    Attributes:
        ids: Of prompt and answer, of shape `(B, P + A)`.
        attended: 1 for the tokens of prompt and answer, of shape `(B, P + A)`.
        answered: True for the tokens of the answer, its end token included, of shape `(B, A)`.
    """

    ids: Tensor
    attended: Tensor
    answered: Tensor

    def answer_ids(self) -> Tensor:
        """Return the ids of the answers, of shape `(B, A)`."""
        return self.ids[:, -self.answered.shape[1] :]


@torch.no_grad()
def _generate(model: Any, chat: ChatTokenizer, prompts: list[list[int]], max_new_tokens: int, seed: int) -> _Drawn:
    pad = chat.tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    attended = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    rule = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=chat.end_ids,
        pad_token_id=pad,
        use_cache=True,
    )
    with torch.random.fork_rng(), _evaluating(model):
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=ids,
            attention_mask=attended,
            generation_config=rule,
            logits_processor=LogitsProcessorList([_Finite(chat, prompts)]),
        )
    ended = torch.isin(out[:, width:], torch.tensor(chat.end_ids, device=out.device)).long()
    answered = ended.cumsum(dim=1) - ended == 0
    return _Drawn(out, torch.cat([attended, answered.long()], dim=1), answered)


class _Finite(LogitsProcessor):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Ends the run on logits that give no distribution; sampling from them would end a process on a GPU."""

    def __init__(self, chat: ChatTokenizer, prompts: list[list[int]]) -> None:
        self.chat, self.prompts = chat, prompts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        bad = ~scores.amax(dim=-1).isfinite()  # NaN and +inf go through amax; -inf on single tokens is sound
        if bool(bad.any()):
            said = [self.chat.tokenizer.decode(self.prompts[place]) for place in bad.nonzero().flatten().tolist()]
            more = f" and of {len(said) - 1} other prompts" if len(said) > 1 else ""
            raise RunFailed(
                "the logits of sampled answers must be finite, got NaN or infinity after the prompt "
                f"{said[0][-200:]!r}{more}; lower train.learning_rate, or sample nothing with evaluate.prompts=0"
            )
        return scores


@torch.no_grad()
def _score(model: Any, drawn: _Drawn) -> Tensor:
    """Return the log-probability of each answer, of shape `(B,)`, in nats."""
    length = drawn.answered.shape[1]
    with _evaluating(model):
        logits = model(
            input_ids=drawn.ids,
            attention_mask=drawn.attended,
            position_ids=(drawn.attended.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=length + 1,
            use_cache=False,
        ).logits[:, :-1]
    logps = logits.float().log_softmax(dim=2).gather(2, drawn.answer_ids()[:, :, None])[:, :, 0]
    total: Tensor = (logps * drawn.answered).sum(dim=1)
    return total


def _texts(drawn: _Drawn, chat: ChatTokenizer) -> list[str]:
    kept = [row[keep].tolist() for row, keep in zip(drawn.answer_ids(), drawn.answered, strict=True)]
    return [str(chat.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in kept]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
