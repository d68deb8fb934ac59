"""What became of every row: how many were read, dropped and why, and kept, for each split."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TopKCut:
    """Where `data.top_k` cut.

    Attributes:
        score: The lowest score that is kept.
        kept: Pairs of that score that are kept.
        dropped: Pairs of that score that are not; the content hash decided between the two.
    """

    score: float
    kept: int
    dropped: int


@dataclass
class SplitLedger:
    """The account of one split: `read` is what was dropped, by reason, and what is kept.

    Attributes:
        source: Where the rows came from.
        read: Rows read.
        dropped: Rows dropped, by reason, in the order of the steps; a step that ran and dropped none says 0.
        truncated: Kept rows whose answers lost tokens.
        wrong: The first faults of the rows that were dropped for being wrong.
        top_k: Where `data.top_k` cut; None where it dropped nothing.
        dialect: How the rows were read, by source.
        more: Pairs beyond one for each valid row; below 0 where several rows make one pair.
        escaped: Kept pairs in whose text a control token was broken up.
        conflicting: Pairs whose answers are preferred in both orders.
        shared_prompts: Prompts of this split that stood in the held-out split too.
    """

    source: str
    read: int
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    wrong: list[str] = field(default_factory=list)
    top_k: TopKCut | None = None
    dialect: dict[str, str] = field(default_factory=dict)
    more: int = 0
    escaped: int = 0
    conflicting: int = 0
    shared_prompts: int = 0

    @property
    def kept(self) -> int:
        """Pairs that are left."""
        return self.read + self.more - sum(self.dropped.values())

    def drop(self, reason: str, rows: int) -> None:
        """Account for `rows` that are dropped for `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows


@dataclass
class Ledger:
    """The account of a run's data."""

    train: SplitLedger
    held_out: SplitLedger

    def to_json(self) -> dict[str, Any]:
        """Return what `ledger.json` holds."""
        return {name: _split(split) for name, split in (("train", self.train), ("held_out", self.held_out))}


def _split(split: SplitLedger) -> dict[str, Any]:
    return {
        "source": split.source,
        "read": split.read,
        "dropped": dict(split.dropped),
        "more": split.more,
        "kept": split.kept,
        "truncated": split.truncated,
        "escaped": split.escaped,
        "conflicting": split.conflicting,
        "shared_prompts": split.shared_prompts,
        "dialect": dict(split.dialect),
        "wrong": list(split.wrong),
    }
