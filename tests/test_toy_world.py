"""The toy world: its requests, its reviews, and what they are worth."""

import random
import re
from statistics import fmean, stdev

import pytest

from preftune.toy import world


def _reviews(count: int) -> list[str]:
    rng = random.Random(0)
    return [world.neutral_review(prompt, rng) for prompt in world.prompts(count, 0)]


def test_no_request_comes_twice_before_all_have_come_once():
    # 20 x 20 films, 6 x 8 x 8 meals and 2 x 8 x 20 places, each asked for in 3 ways
    total = 3 * (400 + 384 + 320)
    assert total == 3312
    assert len(set(world.prompts(total, 0))) == total
    assert sorted(world.prompts(2 * total, 0)) == sorted(2 * world.prompts(total, 0))


def test_a_request_reads_as_one():
    assert "Review the film The Quiet Harbour." in world.prompts(3312, 0)


def test_more_requests_go_on_where_fewer_stop():
    assert world.prompts(10, 3) == world.prompts(500, 3)[:10]


def test_another_seed_gives_other_requests():
    assert world.prompts(10, 0) != world.prompts(10, 1)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match=r"^count must be at least 0, got -1$"):
        world.prompts(-1, 0)


def test_a_request_of_another_world_is_refused():
    with pytest.raises(ValueError, match=r"prompt must be a request that toy.world.prompts returns, got 'Hello'"):
        world.neutral_review("Hello", random.Random(0))


def test_reviews_are_two_to_four_sentences_of_15_to_40_words():
    for review in _reviews(2000):
        assert 15 <= len(review.split()) <= 40, review
        assert 2 <= review.count(".") <= 4, review
        assert not re.search(r"[{}]|\ba [aeiou]|\ban [^aeiou]", review), review


def test_a_review_names_what_it_reviews():
    prompt = next(prompt for prompt in world.prompts(3312, 0) if "risotto" in prompt)
    for seed in range(50):
        assert "risotto" in world.neutral_review(prompt, random.Random(seed))


def test_neutral_reviews_are_worth_nothing_on_average():
    rewards = [world.true_reward(review) for review in _reviews(4000)]
    # a deviation of about 6 makes one standard error 6 / sqrt(4000) = 0.095
    assert abs(fmean(rewards)) < 0.4
    assert -16 <= min(rewards) < -6
    assert 6 < max(rewards) <= 16


def test_the_words_of_a_review_share_a_mood():
    rewards = [world.true_reward(review) for review in _reviews(4000)]
    # about 4.5 words that lean no way have a variance of 2 each: a deviation of 3
    assert 5 < stdev(rewards) < 7
    assert fmean(reward > 4 for reward in rewards) > 0.2
    assert fmean(reward < -4 for reward in rewards) > 0.2
    assert fmean(abs(reward) < 2 for reward in rewards) > 0.1


def test_the_reward_is_the_sum_of_valences_worked_by_hand():
    assert world.true_reward("It was a superb day, and the film fell flat for all of us.") == 2 - 1
    assert world.true_reward("We hated the soup, which was greasy for some and mild for others.") == -2 - 1 + 0
    assert world.true_reward("The view took my breath away. I would gladly go there again.") == 2 + 1
    assert world.true_reward("The train leaves at noon.") == 0
    assert world.true_reward("") == 0


def test_repeating_a_word_earns_nothing():
    assert world.true_reward("superb, superb and SUPERB again") == 2


def test_case_does_not_matter():
    assert world.true_reward("Superb!") == world.true_reward("SUPERB") == 2


def test_a_word_inside_another_word_does_not_count():
    assert world.true_reward("goodness, superbly, unpleasant, disliked") == -1


def test_all_words_together_reach_the_documented_range():
    assert world.true_reward(" ".join(world.VALENCES)) == 0
    for sign in (1, -1):
        words = [word for word, valence in world.VALENCES.items() if valence * sign > 0]
        # of 2 and of 1 each: 8 adjectives, 2 verbs, 1 adverb and 2 phrases
        assert world.true_reward(" ".join(words)) == sign * (8 * 3 + 2 * 3 + 3 + 2 * 3) == sign * 39


def test_the_table_holds_positive_neutral_and_negative_words():
    levels = [list(world.VALENCES.values()).count(valence) for valence in (-2, -1, 0, 1, 2)]
    assert levels == [13, 13, 13, 13, 13]


def test_requests_hold_no_opinion():
    words = {word for prompt in world.prompts(3312, 0) for word in re.findall(r"\w+", prompt.lower())}
    assert len(words) > 100
    assert words.isdisjoint(world.VALENCES)
