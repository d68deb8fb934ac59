"""Preference pairs of the toy world, sampled from its own model and labelled by its true reward.

This follows the controlled-sentiment experiment of Rafailov et al. 2023, arXiv:2305.18290, section 6.1:
answers come from the reference model itself, preferences from a ground-truth reward that the policy never
sees. There a sentiment classifier is that reward; here it is `world.true_reward`, and a label is drawn from
it by Bradley-Terry (the paper's Eq. 1). Answers are the expensive part: they are kept in the cache, and
labelled anew on each call.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from preftune.caches import found, made_once
from preftune.pairs import PreferencePair
from preftune.toy import world
from preftune.toy.model import model_directory, progress, reproducible

CHUNK = 256  # prompts sampled, and kept, at once
MAX_NEW_TOKENS = 64  # a review ends before
ROUNDS = 100  # times that two answers to a prompt are drawn before giving up
ANSWERS = "answers.json"

Answers = tuple[str, str]


def sample_pairs(count: int, label_noise: float, seed: int = 0) -> list[PreferencePair]:
    r"""Return `count` pairs of reviews, sampled at temperature 1 from the toy's model.

    The first of two answers is chosen with probability

    .. math:: P(a > b) = \sigma(r(a) - r(b))

    with :math:`r` the true reward; with probability `label_noise` that label is then turned round. The
    answers depend on `seed` alone: a larger `count` goes on where a smaller one stops, and other noise only
    changes which of two answers is chosen.

    Args:
        count: Number of pairs, at least 0.
        label_noise: Probability that a label is turned round, in [0, 0.5).
        seed: Chooses prompts, answers and labels.

    Returns:
        Pairs of origin `toy:<index>`, with the true rewards as `score_chosen` and `score_rejected`, and as
        `probability` the chance, by Bradley-Terry alone, that the chosen answer is the better one.

    Raises:
        ValueError: `count` or `label_noise` is outside its range.
    """
    if not 0 <= label_noise < 0.5:
        raise ValueError(f"label_noise must be at least 0 and below 0.5, got {label_noise}")
    prompts = world.prompts(count, seed)
    rng = random.Random(f"labels {seed}")
    drawn = zip(prompts, _answers(count, seed), strict=True)
    return [_labelled(index, prompt, two, label_noise, rng) for index, (prompt, two) in enumerate(drawn)]


def _labelled(index: int, prompt: str, answers: Answers, noise: float, rng: random.Random) -> PreferencePair:
    rewards = [world.true_reward(answer) for answer in answers]
    prefers_first = rng.random() < _sigmoid(rewards[0] - rewards[1])
    turned_round = rng.random() < noise
    chosen = 0 if prefers_first != turned_round else 1
    gap = rewards[chosen] - rewards[1 - chosen]
    return PreferencePair(
        prompt=({"role": "user", "content": prompt},),
        chosen=answers[chosen],
        rejected=answers[1 - chosen],
        origin=f"toy:{index}",
        extras={
            "score_chosen": rewards[chosen],
            "score_rejected": rewards[1 - chosen],
            "probability": _sigmoid(gap),
        },
    )


def _sigmoid(gap: float) -> float:
    return 1 / (1 + math.exp(-gap))


def _answers(count: int, seed: int) -> list[Answers]:
    """Return two answers to each of the first `count` prompts, from the cache or from the model."""
    model = model_directory()
    identity = hashlib.sha256(Path(__file__).read_bytes() + f"{model.name} {seed}".encode()).hexdigest()[:16]
    parts = [model.parent / "answers" / f"{identity}-{part}" for part in range(math.ceil(count / CHUNK))]
    missing = [part for part, directory in enumerate(parts) if not found(directory)]
    if missing:
        prompts = world.prompts(len(parts) * CHUNK, seed)
        policy = LlamaForCausalLM.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        with progress(f"Sampling toy answers, {CHUNK} prompts at a time") as bar:
            for part in bar.track(missing):
                asked = prompts[part * CHUNK : (part + 1) * CHUNK]
                draw = partial(_draw, asked, policy, tokenizer, seed=f"answers {seed} {part}")
                made_once(parts[part], partial(_write, draw), of=f"answers of the toy, {CHUNK} prompts, seed {seed}")
    texts = [(directory / ANSWERS).read_text(encoding="utf-8") for directory in parts]
    return [(first, second) for text in texts for first, second in json.loads(text)][:count]


def _write(draw: Callable[[], list[Answers]], directory: Path) -> None:
    (directory / ANSWERS).write_text(json.dumps(draw()), encoding="utf-8")


def _draw(
    prompts: list[str], policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, seed: str
) -> list[Answers]:
    """Return two answers to each prompt; those that leave nothing to choose between are drawn again."""
    answers: dict[int, Answers] = {}
    with reproducible(random.Random(seed).getrandbits(63)):
        for _ in range(ROUNDS):
            missing = [place for place in range(len(prompts)) if place not in answers]
            if not missing:
                return [answers[place] for place in range(len(prompts))]
            drawn = _sample([prompts[place] for place in missing], policy, tokenizer)
            answers |= {place: two for place, two in zip(missing, drawn, strict=True) if _differ(*two)}
    raise RuntimeError(f"two answers that differ must come within {ROUNDS} draws, got none to some prompt")


def _differ(first: str, second: str) -> bool:
    return bool(first.strip()) and bool(second.strip()) and first != second


def _sample(prompts: list[str], policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[Answers]:
    """Sample two answers to each prompt by the model's own generation config, at temperature 1."""
    dialogues = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(dialogues, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    tokens = policy.generate(  # type: ignore[misc]  # its self is typed by a protocol that no model meets
        **inputs, max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=2
    )
    answers = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return list(zip(answers[::2], answers[1::2], strict=True))
