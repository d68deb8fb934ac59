"""Where held-out pairs came from, by name."""

import dataclasses

import numpy as np
import pytest
import torch

from preftune.training.sources import Sources, source_name
from tests import stock


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("pairs.jsonl:12", "pairs.jsonl"),
        ("data/part-00.parquet:3", "data/part-00.parquet"),
        ("org/set[train]:3", "org/set[train]"),
        ("ranked.jsonl:7#2", "ranked.jsonl"),
        ("ranked.jsonl:7+9", "ranked.jsonl"),
        ("a.jsonl:4+b.jsonl:7", "a.jsonl"),
        ("toy:5", "toy"),
        ("made by hand", "made by hand"),
    ],
)
def test_a_source_is_the_origin_without_its_row(origin: str, name: str) -> None:
    assert source_name(origin) == name


def made(*origins: str) -> object:
    pairs = stock.pairs(len(origins))
    return stock.table([dataclasses.replace(pair, origin=o) for pair, o in zip(pairs, origins, strict=True)])


def test_each_pair_knows_its_source_by_its_place() -> None:
    found = Sources.of(made("b:1", "a:1", "b:2", "a:2", "a:3"))
    assert found.names == ("a", "b")
    assert found.at(torch.tensor([4, 0, 2])).tolist() == [0, 1, 1]


def test_the_origins_of_a_choice_of_pairs_are_those_of_its_pairs() -> None:
    table = made("b:1", "a:1", "b:2", "a:2", "c:3", "c:4", "d:5").only(np.array([6, 1, 3, 4]))
    assert list(table.origins()) == [pair.origin for pair in table] == ["a:1", "a:2", "c:3", "d:5"]


def test_a_source_that_travels_with_a_pair_comes_before_its_origin() -> None:
    found = Sources.of(made("a:1", "a:2", "a:3"), np.array([7.0, np.nan, 2.5]))
    assert found.names == ("2.5", "7", "a")
    assert found.at(torch.arange(3)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("count", [1, 21])
def test_one_source_and_more_than_twenty_are_not_told_apart(count: int) -> None:
    assert Sources.of(made(*(f"file{number}:1" for number in range(count)))).names == ()


def test_twenty_sources_are() -> None:
    assert len(Sources.of(made(*(f"file{number}:1" for number in range(20)))).names) == 20
