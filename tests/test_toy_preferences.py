"""Preference pairs of the toy world: their labels, their scores, their order."""

from math import exp
from statistics import fmean

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from preftune.pairs import faults
from preftune.toy import preferences, world
from preftune.toy.model import model_directory
from preftune.toy.preferences import CHUNK, sample_pairs


@pytest.fixture(scope="module")
def pairs():
    return sample_pairs(2 * CHUNK, 0.0)


def test_pairs_are_valid_and_carry_their_origin_and_true_rewards(pairs):
    assert len(pairs) == 2 * CHUNK
    prompts = world.prompts(2 * CHUNK, 0)
    for index, pair in enumerate(pairs):
        assert not list(faults(pair))
        assert pair.prompt == ({"role": "user", "content": prompts[index]},)
        assert pair.origin == f"toy:{index}"
        assert set(pair.extras) == {"score_chosen", "score_rejected", "probability"}
        assert pair.extras["score_chosen"] == world.true_reward(pair.chosen)
        assert pair.extras["score_rejected"] == world.true_reward(pair.rejected)


def test_answers_belong_to_their_prompts_in_every_chunk(pairs):
    subjects = [world.requests()[pair.prompt[0]["content"]][1] for pair in pairs]
    names = [subject in pair.chosen for subject, pair in zip(subjects, pairs, strict=True)]
    assert fmean(names[:CHUNK]) > 0.9
    assert fmean(names[CHUNK:]) > 0.9


def test_the_probability_is_bradley_terry_worked_by_hand(pairs):
    by_gap = {pair.extras["score_chosen"] - pair.extras["score_rejected"]: pair for pair in pairs}
    # 1 / (1 + e^-2), 1 / 2 and 1 / (1 + e^1)
    for gap, probability in ((2.0, 0.880797), (0.0, 0.5), (-1.0, 0.268941)):
        assert by_gap[gap].extras["probability"] == pytest.approx(probability, abs=1e-6)


def test_the_better_answer_is_chosen_as_often_as_bradley_terry_says(pairs):
    gaps = [abs(pair.extras["score_chosen"] - pair.extras["score_rejected"]) for pair in pairs]
    won = [pair.extras["score_chosen"] > pair.extras["score_rejected"] for pair in pairs]
    for gap in (1, 2):
        wins = [win for size, win in zip(gaps, won, strict=True) if size == gap]
        assert len(wins) > 30
        standard_error = 0.5 / len(wins) ** 0.5
        assert abs(fmean(wins) - 1 / (1 + exp(-gap))) < 3 * standard_error


def test_noise_turns_its_share_of_labels_round_and_changes_nothing_else(pairs):
    noisy = sample_pairs(2 * CHUNK, 0.25)
    turned = [clean.chosen != other.chosen for clean, other in zip(pairs, noisy, strict=True)]
    # one standard error of the share is sqrt(0.25 * 0.75 / 512) = 0.019
    assert abs(fmean(turned) - 0.25) < 0.06
    for clean, other in zip(pairs, noisy, strict=True):
        assert {clean.chosen, clean.rejected} == {other.chosen, other.rejected}
        assert clean.prompt == other.prompt


def test_more_pairs_go_on_where_fewer_stop(pairs):
    assert sample_pairs(CHUNK + 3, 0.0) == pairs[: CHUNK + 3]
    assert sample_pairs(0, 0.0) == []


def test_another_seed_gives_other_prompts_and_the_caller_keeps_its_random_numbers(pairs):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert sample_pairs(2, 0.0, seed=1)[0].prompt != pairs[0].prompt
    assert torch.equal(before, torch.get_rng_state())


def test_answers_drawn_anew_are_those_in_the_cache(pairs):
    directory = model_directory()
    policy = LlamaForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    torch.manual_seed(7)
    answers = preferences._draw(world.prompts(CHUNK, 0), policy, tokenizer, seed="answers 0 0")
    assert [set(two) for two in answers] == [{pair.chosen, pair.rejected} for pair in pairs[:CHUNK]]


def test_a_second_call_samples_nothing(pairs, capfd):
    sample_pairs(2 * CHUNK, 0.1)
    assert capfd.readouterr().err == ""


def test_equal_and_empty_answers_are_no_choice():
    assert preferences._differ("A film.", "The film.")
    assert not preferences._differ("A film.", "A film.")
    assert not preferences._differ(" ", "A film.")
    assert not preferences._differ("A film.", "")


def test_answers_that_leave_no_choice_are_drawn_again(monkeypatch):
    draws = iter([[("a", "a"), ("b", "c")], [("d", "e")]])
    asked = []

    def drawn(prompts, policy, tokenizer):
        asked.append(prompts)
        return next(draws)

    monkeypatch.setattr(preferences, "_sample", drawn)
    assert preferences._draw(["p", "q"], None, None, seed="s") == [("d", "e"), ("b", "c")]
    assert asked == [["p", "q"], ["p"]]


def test_a_model_that_says_one_thing_only_is_an_error(monkeypatch):
    monkeypatch.setattr(preferences, "_sample", lambda prompts, *_: [("a", "a")] * len(prompts))
    with pytest.raises(RuntimeError, match="two answers that differ must come within 100 draws"):
        preferences._draw(["p"], None, None, seed="s")


@pytest.mark.parametrize("noise", [-0.1, 0.5, float("nan")])
def test_noise_outside_its_range_is_refused(noise):
    with pytest.raises(ValueError, match=rf"label_noise must be at least 0 and below 0.5, got {noise}"):
        sample_pairs(1, noise)
