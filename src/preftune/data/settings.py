"""What a dataset recipe can choose."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings, shown

Dialect = Literal["auto", "messages", "ultrafeedback", "openhermes", "implicit", "hh_rlhf", "orca", "sharegpt"]

Column = Annotated[str, Field(min_length=1)]

_WITHOUT_EFFECT = {
    "hub": (),
    "files": ("id", "revision", "test_split"),
    "toy": ("id", "revision", "test_split", "dialect", "score", "top_k", "min_score", "max_dropped"),
}


class ToySettings(Settings):
    """How many pairs the toy world makes, and how many of its labels are wrong."""

    pairs: Annotated[int, Field(ge=8, le=1_000_000)]
    label_noise: Annotated[float, Field(ge=0, lt=0.5)]


class ColumnSettings(Settings):
    """What the rows call the columns that `messages` reads; null is the same name."""

    prompt: Column | None = None
    chosen: Column | None = None
    rejected: Column | None = None
    system: Column | None = None

    def given(self) -> dict[str, str]:
        """Return the columns that are given by name."""
        return {name: column for name, column in self if column is not None}


SAME_NAMES = ColumnSettings()


class DataSettings(Settings):
    """One dataset recipe.

    Attributes:
        name: Names the recipe in the run's directory.
        source: Where rows come from: a hub id, local files, or the toy world.
        id: Hub id. `path` stands in for it.
        revision: Branch, tag or commit of `id`.
        split: Split of `id` that training uses.
        test_split: Split of `id` held out for evaluation; without it, and with `path`, `test_size` is.
        path: Local file: JSON, JSON lines or parquet, in the layout that `dialect` names. It stands in for
            `id` with all of its splits.
        dialect: The layout of the rows; `auto` recognises it from the first hundred.
        columns: Other names of the columns that the dialect `messages` reads; `auto` then takes that dialect.
        score: Column with the strength of the preference, or two columns, of chosen and of rejected, whose
            difference is the strength. Needed by `top_k` and `min_score`.
        top_k: Keep this many pairs, those with the highest score; ties are broken by content hash.
        min_score: Keep pairs whose score is at least this, in the units of `score`.
        max_rows: Keep at most this many pairs, chosen by content hash.
        test_size: Held-out share of the prompts when below 1, their number otherwise. Chosen by prompt hash.
        split_seed: Changes which prompts are held out.
        overlong: What becomes of a pair longer than `train.max_length`: `drop` it, `cut` the end of its answers,
            or `stop`.
        on_bad_row: What a wrong row does: `stop` the run, or be dropped and counted (`drop`).
        max_dropped: Share of the rows that may be wrong before the run stops all the same; null is any.
        max_length_ratio: Drop pairs whose longer answer has more than this times the other's characters.
        toy: Settings of the toy world; only for `source: toy`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    source: Literal["hub", "files", "toy"]
    id: str | None = None
    revision: str | None = None
    split: str = "train"
    test_split: str | None = None
    path: str | None = None
    dialect: Dialect | None = None
    columns: ColumnSettings = SAME_NAMES
    score: str | Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_score: float | None = None
    max_rows: Annotated[int, Field(ge=2)] | None = None
    test_size: Annotated[float, Field(gt=0)]
    split_seed: int = 0
    overlong: Literal["drop", "cut", "stop"] = "drop"
    on_bad_row: Literal["stop", "drop"] = "stop"
    max_dropped: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length_ratio: Annotated[float, Field(gt=1)] | None = None
    toy: ToySettings | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> "DataSettings":
        faults = [*self._source_faults(), *self._layout_faults(), *self._selection_faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _source_faults(self) -> Iterator[str]:
        if self.source == "hub" and not (self.id or self.path):
            yield "data.id must name a dataset, or data.path a local copy of it, got neither"
        if self.source == "files" and not self.path:
            yield "data.path must name a local file, got null"
        if self.source == "toy" and self.path:
            yield (
                f"data.path must be null for data=toy, which reads no file, got {self.path!r}; "
                "use data=jsonl or another recipe"
            )
        for key in _WITHOUT_EFFECT[self.source]:
            if (value := getattr(self, key)) is not None:
                yield f"data.{key} must be null where data.source is {self.source}, got {value!r}"

    def _layout_faults(self) -> Iterator[str]:
        if self.source == "toy" and self.toy is None:
            yield "data.toy must be given where data.source is toy, got null"
        if self.source != "toy" and self.toy is not None:
            yield f"data.toy must be null where data.source is {self.source}, which has no toy world"
        if self.source != "toy" and self.dialect is None:
            yield "data.dialect must name the layout of the rows, got null"
        yield from self._column_faults()

    def _column_faults(self) -> Iterator[str]:
        given = self.columns.given()
        for name, column in given.items():
            if self.dialect not in ("messages", "auto"):
                yield (
                    f"data.columns.{name} must be null where data.dialect is {shown(self.dialect)}, got {column!r}; "
                    "data.dialect=messages reads columns by other names"
                )
            elif same := [other for other in given if other < name and given[other] == column]:
                yield f"data.columns.{name} must differ from data.columns.{same[0]}, got {column!r} for both"

    def _selection_faults(self) -> Iterator[str]:
        for key in ("top_k", "min_score"):
            if self.source != "toy" and getattr(self, key) is not None and self.score is None:
                yield (
                    f"data.{key} must be null where data.score is null, got {getattr(self, key)}; "
                    "set data.score to the column that holds the strength of the preference"
                )
        if self.on_bad_row == "stop" and self.max_dropped is not None:
            yield f"data.max_dropped must be null where data.on_bad_row is stop, got {self.max_dropped:g}"
        if self.test_size >= 1 and self.test_size != int(self.test_size):
            yield f"data.test_size must be a share below 1 or a whole number, got {self.test_size}"
