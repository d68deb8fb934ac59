"""A small world with a known truth: requests for reviews, reviews of them, and what a review is worth.

A request names a film, a meal or a place. A review is two to four sentences whose slots hold opinion words,
and every opinion word has a known valence. The true reward of a text is the sum of its valences. A review is
in a bad, an even or a good mood, each as often, and its words lean that way: a model of such reviews knows
what mood is, and prefers none.
"""

import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from math import exp

# Opinion words by valence. Each level of a table holds as many as the others, so that words drawn without
# preference have a mean valence of 0.
_ADJECTIVES: dict[str, dict[int, str]] = {
    "any": {
        2: "wonderful superb",
        1: "good pleasant",
        0: "ordinary typical",
        -1: "poor dull",
        -2: "awful dreadful",
    },
    "film": {
        2: "gripping dazzling",
        1: "clever warm",
        0: "lengthy brief",
        -1: "slow muddled",
        -2: "unbearable insulting",
    },
    "meal": {
        2: "delicious exquisite",
        1: "fresh tasty",
        0: "mild simple",
        -1: "bland greasy",
        -2: "disgusting rancid",
    },
    "place": {
        2: "breathtaking enchanting",
        1: "peaceful charming",
        0: "busy old",
        -1: "noisy crowded",
        -2: "filthy hideous",
    },
}
_VERBS = {
    2: "loved adored",
    1: "enjoyed liked",
    0: "discussed mentioned",
    -1: "disliked regretted",
    -2: "hated loathed",
}
_ADVERBS = {2: "eagerly", 1: "gladly", 0: "perhaps", -1: "hardly", -2: "never"}
_PHRASES = {
    "took my breath away": 2,
    "stole the show": 2,
    "lifted my mood": 1,
    "came together": 1,
    "went as expected": 0,
    "took its time": 0,
    "fell flat": -1,
    "wore me out": -1,
    "fell to pieces": -2,
    "spoiled everything": -2,
}


def _levels(rows: dict[int, str]) -> dict[str, int]:
    return {word: valence for valence, words in rows.items() for word in words.split()}


VALENCES: dict[str, int] = {
    **{word: valence for rows in _ADJECTIVES.values() for word, valence in _levels(rows).items()},
    **_levels(_VERBS),
    **_levels(_ADVERBS),
    **_PHRASES,
}
"""Every opinion word, and every opinion phrase, with its valence from -2 (worst) to 2 (best)."""

_OPINION = re.compile(r"\b(?:" + "|".join(map(re.escape, VALENCES)) + r")\b")

_ASPECTS = {
    "film": ["acting", "music", "script", "ending", "cast", "dialogue"],
    "meal": ["sauce", "service", "bread", "dessert", "seasoning", "presentation"],
    "place": ["view", "walk", "atmosphere", "entrance", "lighting", "guide"],
}
MOODS = (-1.0, 0.0, 1.0)  # a word is drawn with a weight of exp(mood * valence)
_AGAIN = {"film": "watch it again", "meal": "order it again", "place": "go there again"}

_OPENERS = (
    "I came without plans, and the {thing} was {adjective} and {adjective}.",
    "The {thing} was {adjective} from start to finish, and also {adjective}.",
    "We {verb} the {thing}, which was {adjective} for some and {adjective} for others.",
    "It was {an_adjective} day, and the {thing} {phrase} for all of us.",
)
_MIDDLES = (
    "The {aspect} was {adjective}, and the {aspect} was {adjective}.",
    "I thought the {aspect} was {adjective}.",
    "Even the {aspect} was {adjective} and {adjective}.",
    "The {aspect} {phrase}.",
)
_CLOSERS = (
    "I would {adverb} {again}.",
    "All in all, it was {an_adjective} {thing}.",
    "My friends {verb} it as well.",
)

_REQUESTS = ("Review {}.", "Write a short review of {}.", "What did you think of {}?")
# Each word of a row goes with each of the other rows: about as many films as meals as places.
_FILMS = (
    "Quiet Silver Hidden Last Golden Broken Distant Northern Winter Crimson "
    "Paper Glass Wandering Second Secret Frozen Lonely Painted Sleeping Burning",
    "Harbour Garden River Letter Mountain Orchard Mirror Station Lantern Island "
    "Window Forest Compass Bridge Violin Desert Summer Kingdom Voyage Shadow",
)
_MEALS = (
    "mushroom lemon pumpkin tomato chicken spinach",
    "risotto soup pie curry salad stew pasta omelette",
    "Adler's Bella's Claude's Dora's Elsa's Fritz's Gina's Harvey's",
)
_PLACES = (
    "north south",
    "harbour museum park library market castle square beach",
    "Aldenbrook Casterly Dunmore Eastwick Farrow Glenhaven Holloway Inverley Kestrel Lindholm "
    "Marlow Norwood Oakham Pembridge Queensferry Rosehill Selwyn Thornbury Upton Westmere",
)


@cache
def requests() -> dict[str, tuple[str, str]]:
    """Return every request with its kind and with the noun that a review calls its subject by."""
    subjects = {}
    for first, second in _combined(_FILMS):
        subjects[f"the film The {first} {second}"] = ("film", "film")
    for taste, dish, house in _combined(_MEALS):
        subjects[f"the {taste} {dish} at {house}"] = ("meal", dish)
    for side, site, town in _combined(_PLACES):
        subjects[f"the {side} {site} of {town}"] = ("place", site)
    return {form.format(subject): about for subject, about in subjects.items() for form in _REQUESTS}


def _combined(rows: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return product(*(row.split() for row in rows))


def prompts(count: int, seed: int) -> list[str]:
    """Return `count` requests for a review, such as `Review the film The Quiet Harbour.`

    No request comes twice before every one of the 3,312 has come once. A larger `count` goes on where a
    smaller one with the same seed stops.

    Args:
        count: Number of requests, at least 0.
        seed: Chooses their order.

    Raises:
        ValueError: `count` is below 0.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    rng = random.Random(f"prompts {seed}")
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(list(requests()), len(requests()))
    return drawn[:count]


def neutral_review(prompt: str, rng: random.Random) -> str:
    """Write a review of 15 to 40 words in answer to `prompt`, in a mood that is drawn without preference.

    Args:
        prompt: A request that `prompts` returns.
        rng: Source of every choice.

    Raises:
        ValueError: `prompt` is not a request of this world.
    """
    if prompt not in requests():
        raise ValueError(f"prompt must be a request that toy.world.prompts returns, got {prompt!r}")
    kind, thing = requests()[prompt]
    middles = rng.sample(_MIDDLES, rng.randrange(3))
    form = " ".join([rng.choice(_OPENERS), *middles, rng.choice(_CLOSERS)])
    fillings = _fillings(kind, thing, rng)
    return re.sub(r"\{(\w+)\}", lambda slot: next(fillings[slot[1]]), form)


def _fillings(kind: str, thing: str, rng: random.Random) -> dict[str, Iterator[str]]:
    """Return, for each name of a slot, what goes in; no word comes twice in one review."""

    mood = rng.choice(MOODS)

    def shuffled(words: Iterable[str]) -> Iterator[str]:
        # sorting by u^(1/w) draws without replacement with weights w: Efraimidis and Spirakis 2006
        return iter(sorted(words, key=lambda word: -(rng.random() ** exp(-mood * VALENCES.get(word, 0)))))

    adjectives = shuffled([*_levels(_ADJECTIVES["any"]), *_levels(_ADJECTIVES[kind])])
    return {
        "thing": iter([thing] * 3),
        "again": iter([_AGAIN[kind]]),
        "aspect": shuffled(_ASPECTS[kind]),
        "adjective": adjectives,
        "an_adjective": (f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in adjectives),
        "verb": shuffled(_levels(_VERBS)),
        "adverb": shuffled(_levels(_ADVERBS)),
        "phrase": shuffled(_PHRASES),
    }


def true_reward(text: str) -> float:
    """Return what `text` is worth: the sum of the valences of the opinion words in it.

    Each distinct word counts once, so that repeating a word earns nothing. Case does not matter; a word
    inside another word does not count.

    Returns:
        A whole number from -39 (every negative word) to 39 (every positive word); a review of this world
        stays within -16 and 16.

    Example:
        >>> true_reward("A superb film. The acting was superb, the music dull.")
        1.0
    """
    return float(sum(VALENCES[word] for word in set(_OPINION.findall(text.lower()))))
