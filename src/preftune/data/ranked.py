"""Answers with scores, several to a prompt, and the pairs that they make."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from preftune.pairs import Message, PreferencePair


@dataclass(frozen=True, slots=True)
class RankedAnswers:
    """A prompt with answers, each with a score; the higher is the better.

    Attributes:
        prompt: Turns up to and including the user's last; an optional system turn comes first.
        answers: Text and score of each answer, in any order.
        origin: Where the row came from; of several rows, the first's.
        origins: The row of each answer, where several rows were joined; empty where all are of one.
    """

    prompt: tuple[Message, ...]
    answers: tuple[tuple[str, float], ...]
    origin: str
    origins: tuple[str, ...] = ()


class _Answer(NamedTuple):
    text: str
    score: float
    origin: str


def pairs_of(ranked: RankedAnswers, pairing: Literal["best_worst", "all"], gap: float) -> list[PreferencePair]:
    """Return the pairs of answers whose scores differ, by at least `gap`; the same in any order of the answers.

    Of answers with the same text none is paired with another. `best_worst` makes at most one pair, that with the
    largest difference of scores; among equal scores the content hash of the text decides. A pair's extras are
    `score`, the difference, `score_chosen` and `score_rejected`.

    Args:
        ranked: The answers to one prompt.
        pairing: `best_worst`, or `all` pairs, whose number grows with the square of the answers'.
        gap: Least difference, at least 0. A difference of 0 makes no pair.

    Returns:
        The pairs. The origin of a pair is `file:row`; `file:row#1`, `file:row#2` where a row makes several; and
        `file:3+9` where the chosen answer is of row 3 and the rejected of row 9.
    """
    answers = sorted(_answers(ranked), key=lambda answer: (-answer.score, _text_hash(answer.text), answer.origin))
    candidates = combinations(answers, 2) if pairing == "all" else _farthest(answers)
    taken = [(chosen, rejected) for chosen, rejected in candidates if _differ(chosen, rejected, gap)]
    names = [_joined(chosen.origin, rejected.origin) for chosen, rejected in taken]
    return [
        PreferencePair(
            ranked.prompt,
            chosen.text,
            rejected.text,
            origin,
            {"score": chosen.score - rejected.score, "score_chosen": chosen.score, "score_rejected": rejected.score},
        )
        for (chosen, rejected), origin in zip(taken, _numbered(names), strict=True)
    ]


def grouped(answers: Iterable[RankedAnswers]) -> Iterator[RankedAnswers]:
    """Join the answers to the same prompt, in the order in which prompts first occur; all are held in memory."""
    groups: dict[str, list[RankedAnswers]] = {}
    for ranked in answers:
        groups.setdefault(json.dumps(ranked.prompt), []).append(ranked)
    for group in groups.values():
        if len(group) == 1:
            yield group[0]
            continue
        joined = [answer for ranked in group for answer in _answers(ranked)]
        yield RankedAnswers(
            group[0].prompt,
            tuple((answer.text, answer.score) for answer in joined),
            group[0].origin,
            tuple(answer.origin for answer in joined),
        )


def _answers(ranked: RankedAnswers) -> list[_Answer]:
    origins = ranked.origins or (ranked.origin,) * len(ranked.answers)
    return [_Answer(text, score, origin) for (text, score), origin in zip(ranked.answers, origins, strict=True)]


def _farthest(answers: list[_Answer]) -> list[tuple[_Answer, _Answer]]:
    """Return the pair of different texts whose scores are farthest apart; `answers` are sorted, the best first."""
    if not answers:
        return []
    # One of the two is always the best or the worst, as either can stand in for what it was paired with.
    best, worst = answers[0], answers[-1]
    under = next(((best, other) for other in reversed(answers) if other.text != best.text), None)
    over = next(((other, worst) for other in answers if other.text != worst.text), None)
    found = [pair for pair in (under, over) if pair is not None]
    return sorted(found, key=lambda pair: pair[1].score - pair[0].score)[:1]


def _differ(chosen: _Answer, rejected: _Answer, gap: float) -> bool:
    difference = chosen.score - rejected.score
    return chosen.text != rejected.text and difference > 0 and difference >= gap


def _joined(first: str, second: str) -> str:
    if first == second:
        return first
    source, _, row = second.rpartition(":")
    return f"{first}+{row if source and first.startswith(f'{source}:') else second}"


def _numbered(names: list[str]) -> list[str]:
    several, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}#{seen[name]}" if several[name] > 1 else name)
    return numbered


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
