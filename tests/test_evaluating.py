"""Sampled answers: what is drawn, what it is worth, and how far the policy went."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from preftune.evaluating import sampling
from preftune.evaluating.sampling import Answers, Estimate, sample_policy, sample_reference
from preftune.evaluating.settings import EvaluateSettings
from preftune.losses import scratch
from preftune.models import source
from preftune.models.tokenizer import ChatTokenizer, load_tokenizer
from preftune.tokens.tokenization import prompt_ids
from tests import stock

PROMPTS = [pair.prompt for pair in stock.pairs(5)]
SETTINGS = EvaluateSettings(points=1, prompts=5, max_new_tokens=12, batch_size=2)


@pytest.fixture(scope="module")
def chat(chatml_model: Path) -> ChatTokenizer:
    settings = stock.model_settings(chatml_model)
    return load_tokenizer(settings, source.locate(settings))


def model(path: Path, *, noise: float = 0.0) -> Any:
    made = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        made.lm_head.weight.add_(noise * torch.randn_like(made.lm_head.weight))
    return made


def acting(made: Any) -> Any:
    def act() -> AbstractContextManager[Any]:
        return nullcontext(made)

    return act


def sample(
    policy: Any,
    reference: Any,
    chat: ChatTokenizer,
    seed: int = 0,
    settings: EvaluateSettings = SETTINGS,
    prompts: Any = PROMPTS,
) -> Answers:
    first = sample_reference(acting(reference), chat, prompts, settings, seed=seed)
    said, kl = sample_policy(acting(policy), acting(reference), chat, prompts, settings, seed=seed)
    return Answers(prompts, first, said, kl)


def test_a_policy_equal_to_its_reference_says_the_same_at_no_distance(chatml_model: Path, chat: ChatTokenizer) -> None:
    answers = sample(model(chatml_model), model(chatml_model), chat)
    assert answers.policy == answers.reference
    assert answers.kl == pytest.approx([0.0] * 5, abs=1e-6)


def test_the_seed_decides_what_is_drawn(chatml_model: Path, chat: ChatTokenizer) -> None:
    made = model(chatml_model)
    assert sample(made, made, chat, seed=1) == sample(made, made, chat, seed=1)
    assert sample(made, made, chat, seed=1) != sample(made, made, chat, seed=2)


def test_the_distance_is_the_log_ratio_of_the_policys_own_answer(chatml_model: Path, chat: ChatTokenizer) -> None:
    policy, reference = model(chatml_model, noise=0.3), model(chatml_model)
    answers = sample(policy, reference, chat)
    one = SETTINGS.model_copy(update={"batch_size": 1, "max_new_tokens": 1})
    single = sample(policy, reference, chat, settings=one, prompts=PROMPTS[:1])
    ids = prompt_ids(PROMPTS[0], chat)
    spoken = chat.tokenizer(single.policy.texts[0], add_special_tokens=False)["input_ids"]
    full, mask = torch.tensor([[*ids, *spoken]]), torch.tensor([[0] * len(ids) + [1] * len(spoken)])
    with torch.no_grad():
        by_hand = [scratch.completion_logps(made(input_ids=full).logits, full, mask) for made in (policy, reference)]
    assert len(spoken) == 1
    assert single.kl == pytest.approx([(by_hand[0] - by_hand[1]).item()], abs=1e-4)
    assert any(abs(value) > 1e-3 for value in answers.kl)


def test_a_length_counts_the_tokens_of_an_answer_with_its_end(chatml_model: Path, chat: ChatTokenizer) -> None:
    drawn = sampling._Drawn(
        torch.tensor([[7, 8, 20, 21, 22], [7, 8, 20, 21, 5]]),
        torch.ones(2, 5),
        torch.tensor([[True] * 3, [True, True, False]]),
    )
    spoken = sampling.Spoken([], [])
    sampling._add(spoken, drawn, chat)
    assert spoken.lengths == [3, 2]
    assert len(spoken.texts) == 2


def test_padding_on_either_side_changes_no_answers_probability(chatml_model: Path, chat: ChatTokenizer) -> None:
    made, pad = model(chatml_model, noise=1.0), chat.tokenizer.pad_token_id
    alone = sampling._Drawn(torch.tensor([[7, 8, 9, 20, 21]]), torch.ones(1, 5), torch.tensor([[True, True]]))
    padded = sampling._Drawn(
        torch.tensor([[pad, pad, 7, 8, 9, 20, 21, pad], [5, 6, 7, 8, 9, 20, 21, 22]]),
        torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0], [1] * 8]),
        torch.tensor([[True, True, False], [True] * 3]),
    )
    torch.testing.assert_close(sampling._score(made, padded)[:1], sampling._score(made, alone), rtol=0, atol=1e-4)


def test_training_mode_and_the_callers_random_numbers_are_left_as_they_were(
    chatml_model: Path, chat: ChatTokenizer
) -> None:
    made = model(chatml_model).train()
    before = torch.get_rng_state()
    sample(made, made, chat)
    assert made.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_standard_error_is_the_spread_over_the_root_of_the_count() -> None:
    # values 1, 2, 3: mean 2, sample deviation 1, standard error 1 / sqrt 3
    assert Estimate.of([1.0, 2.0, 3.0]).to_json() == pytest.approx({"mean": 2.0, "stderr": 3**-0.5})


def test_one_value_has_no_standard_error() -> None:
    assert Estimate.of([1.0]).mean == 1.0
    assert Estimate.of([1.0]).stderr != Estimate.of([1.0]).stderr
