"""The toy's model: its tokenizer, its bits, what it writes."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preftune.toy import world
from preftune.toy.model import IGNORED, Recipe, _batch, build_tokenizer, model_directory, reproducible, train


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(Recipe())


@pytest.fixture(scope="module")
def trained():
    """Return the cached model and its tokenizer, loaded as any model is."""
    directory = model_directory()
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(directory), tokenizer


def test_the_template_renders_chatml_and_accepts_a_system_turn(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Review it."},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nReview it.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_training_sees_the_rendered_dialogue_and_learns_the_answer_alone(tokenizer):
    batch = _batch(Recipe(batch_size=2), tokenizer, random.Random(0))
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        text = tokenizer.decode(ids[mask.bool()])
        user, answer = text.removeprefix("<|im_start|>user\n").split("<|im_end|>\n<|im_start|>assistant\n")
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer.removesuffix("<|im_end|>")},
        ]
        assert text + "\n" == tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(labels[labels != IGNORED]) == answer
        assert answer.endswith(".<|im_end|>")


def test_the_tokenizer_holds_any_text_and_starts_none_with_a_token(tokenizer):
    text = "The risotto was superb. \t{x}\n你好 é\u0000 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.bos_token is None
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    assert len(tokenizer) <= Recipe().vocabulary


def test_each_role_and_each_opinion_word_is_one_token(tokenizer):
    for role in ("system", "user", "assistant"):
        assert len(tokenizer.tokenize(role)) == 1
    for word in world.VALENCES:
        assert len(tokenizer.tokenize(" " + word)) == len(word.split())


def test_the_tokenizer_is_the_same_each_time(tokenizer):
    again = build_tokenizer(Recipe())
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(tokenizer):
    torch.manual_seed(1)
    first = train(Recipe(steps=3), tokenizer).state_dict()
    torch.manual_seed(2)
    second = train(Recipe(steps=3), tokenizer).state_dict()
    other = train(Recipe(steps=3, seed=1), tokenizer).state_dict()
    assert len(first) > 10
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_training_leaves_the_random_numbers_and_the_threads_of_its_caller_alone(tokenizer):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(7)
        random.seed(7)
        before = torch.get_rng_state(), random.getstate()
        train(Recipe(steps=1), tokenizer)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_sums_are_made_on_one_thread_so_that_their_bits_do_not_depend_on_the_machine():
    with reproducible(0):
        assert torch.get_num_threads() == 1


def test_progress_is_readable_when_it_is_piped(tokenizer, capfd):
    train(Recipe(steps=2), tokenizer)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Training the toy model, once"
    assert "2/2" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_the_model_is_small_and_loads_as_any_other(trained):
    model, tokenizer = trained
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert model.config.model_type == "llama"
    assert (model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert tokenizer("The risotto")["input_ids"] == build_tokenizer(Recipe())("The risotto")["input_ids"]
    assert tokenizer.chat_template == build_tokenizer(Recipe()).chat_template


def test_the_second_call_trains_nothing(trained, capfd):
    model_directory()
    assert capfd.readouterr().err == ""
    assert not list(model_directory().parent.glob("*.partial"))


def test_generation_samples_at_temperature_1_and_cuts_nothing_off(trained):
    config = trained[0].generation_config
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 1.0, 0, 1.0)


def test_samples_end_read_as_reviews_and_lean_to_neither_side(trained):
    model, tokenizer = trained
    prompts = world.prompts(256, 99)
    dialogues = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(dialogues, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with reproducible(0):
        tokens = model.generate(**inputs, max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
    assert (tokens == tokenizer.eos_token_id).any(dim=1).float().mean() >= 0.95
    reviews = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    rng = random.Random(0)
    known = {word for prompt in world.prompts(3312, 0) for word in world.neutral_review(prompt, rng).split()}
    assert sum(known.issuperset(review.split()) for review in reviews) >= 0.95 * len(reviews)
    assert sum(world.requests()[prompt][1] in review for prompt, review in zip(prompts, reviews, strict=True)) > 230
    rewards = torch.tensor([world.true_reward(review) for review in reviews])
    # 256 samples of deviation 5: one standard error is 0.3
    assert abs(rewards.mean()) < 1.2
    assert 4 < rewards.std() < 7
