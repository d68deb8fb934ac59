"""What a dataset recipe can choose."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings, did_you_mean, shown

DIALECT_NAMES = (
    "auto",
    "messages",
    "ultrafeedback",
    "openhermes",
    "implicit",
    "hh_rlhf",
    "orca",
    "sharegpt",
    "ranked",
    "rated",
    "labelled",
)

Column = Annotated[str, Field(min_length=1)]

_WITHOUT_EFFECT = {
    "hub": ("mix",),
    "files": ("id", "revision", "test_split", "mix"),
    "mix": ("id", "revision", "path", "test_split", "dialect", "columns", "score", "extras", "pairing", "pairing_gap"),
    "toy": (
        *("id", "revision", "test_split", "dialect", "columns", "score", "extras", "pairing", "pairing_gap", "mix"),
        *("top_k", "min_margin", "ties", "max_dropped", "control_tokens", "streaming"),
    ),
}
_NEEDED = {
    "hub": (("id", "path"), "data.id must name a dataset, or data.path a local copy of it, got neither"),
    "files": (("path",), "data.path must name a local file, got null"),
    "mix": (("mix",), "data.mix must list sources, each with an id or a path, got null"),
    "toy": (("toy",), "data.toy must be given where data.source is toy, got null"),
}
_NEEDS_THE_WHOLE_SET = ("top_k", "max_rows", "mix")


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


class ExtraSettings(Settings):
    """Columns with numbers that travel with a pair to the loss; null reads none.

    Attributes:
        probability: That chosen is the better answer, in [0, 1].
        weight: Of the pair in the loss, at least 0.
        votes_chosen: Votes for chosen, at least 0; with `votes_rejected` they give the probability.
        votes_rejected: Votes for rejected, at least 0.
    """

    probability: Column | None = None
    weight: Column | None = None
    votes_chosen: Column | None = None
    votes_rejected: Column | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> "ExtraSettings":
        if (self.votes_chosen is None) != (self.votes_rejected is None):
            raise ValueError(
                "data.extras.votes_chosen and data.extras.votes_rejected must be given together, got "
                f"{shown(self.votes_chosen)} and {shown(self.votes_rejected)}"
            )
        if self.votes_chosen is not None and self.probability is not None:
            raise ValueError(
                "data.extras.probability must be null where the votes give it, got "
                f"{self.probability!r} beside {self.votes_chosen!r}"
            )
        return self

    def given(self) -> dict[str, str]:
        """Return the columns that are read, by what they hold."""
        return {name: column for name, column in self if column is not None}


SAME_NAMES = ColumnSettings()
NO_EXTRAS = ExtraSettings()


class SourceSettings(Settings):
    """Where rows come from, and how a row is read.

    Attributes:
        id: Hub id. `path` stands in for it.
        revision: Branch, tag or commit of `id`.
        split: Split of `id` that training uses.
        path: Local file, glob or directory: JSON, JSON lines, CSV, parquet or a saved Arrow data set, in the layout
            that `dialect` names. It stands in for `id` with all of its splits.
        dialect: The layout of the rows; `auto` recognises it from the first hundred. A dotted path names a function
            of your own, row in, pair out.
        columns: Other names of the columns that the dialect `messages` reads; `auto` then takes that dialect.
        score: Column with the strength of the preference, or two columns, of chosen and of rejected, whose
            difference is the strength. Needed by `top_k` and `min_margin`.
        extras: Columns with numbers that travel with a pair to the loss.
        pairing: Which pairs a list of ranked answers makes: the best against the worst, or all that differ.
        pairing_gap: Least difference of the scores of a pair that is made of a list.
    """

    id: str | None = None
    revision: str | None = None
    split: str = "train"
    path: str | None = None
    dialect: str | None = None
    columns: ColumnSettings = SAME_NAMES
    score: str | Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    extras: ExtraSettings = NO_EXTRAS
    pairing: Literal["best_worst", "all"] = "best_worst"
    pairing_gap: Annotated[float, Field(ge=0)] = 0.0

    def _reading_faults(self) -> Iterator[str]:
        if self.dialect is None:
            yield "data.dialect must name the layout of the rows, got null"
        elif "." not in self.dialect and self.dialect not in DIALECT_NAMES:
            yield (
                f"data.dialect must be one of {', '.join(DIALECT_NAMES)}, or a function by dotted path, got "
                f"{self.dialect!r}{did_you_mean(self.dialect, DIALECT_NAMES)}"
            )
        given = self.columns.given()
        for name, column in given.items():
            if self.dialect not in ("messages", "auto"):
                yield (
                    f"data.columns.{name} must be null where data.dialect is {shown(self.dialect)}, got {column!r}; "
                    "data.dialect=messages reads columns by other names"
                )
            elif same := [other for other in given if other < name and given[other] == column]:
                yield f"data.columns.{name} must differ from data.columns.{same[0]}, got {column!r} for both"


class MixedSource(SourceSettings):
    """One source of `data.mix`; `weight` is its share of the pairs that are kept, relative to the others'."""

    dialect: str | None = "auto"
    weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _settings_agree(self) -> "MixedSource":
        faults = [fault.replace("data.", "data.mix: ", 1) for fault in self._reading_faults()]
        if (self.id is None) == (self.path is None):
            faults.append(
                f"data.mix must give each source an id or a path, got {shown(self.id)} and {shown(self.path)}"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self


class DataSettings(SourceSettings):
    """One dataset recipe.

    Attributes:
        name: Names the recipe in the run's directory.
        source: Where rows come from: a hub id, local files, a mix of such sources, or the toy world.
        test_split: Split of `id` held out for evaluation; without it, and with `path`, `test_size` is.
        mix: Sources to read together; only for `source: mix`.
        duplicates: Which pairs count as one: `exact` copies, `normalized` ones (the same but for case, white space
            and Unicode form), or none (`keep`).
        conflicts: What becomes of two answers that are preferred in both orders: `keep` both pairs, `drop` both, or
            `merge` them into one with the `probability` that they show.
        control_tokens: What a control token of the tokenizer inside a text of the row does: `refuse` the row,
            `escape` it, or be let through (`allow`).
        ties: What becomes of pairs whose score is 0.
        min_margin: Keep pairs whose score is at least this, in the units of `score`.
        top_k: Keep this many pairs, those with the highest score; ties are broken by content hash.
        max_rows: Keep at most this many pairs, chosen by content hash.
        test_size: Held-out share of the prompts when below 1, their number otherwise. Chosen by prompt hash.
        split_seed: Changes which prompts are held out.
        overlong: What becomes of a pair longer than `train.max_length`: `drop` it, `cut` the end of its answers,
            or `stop`.
        on_bad_row: What a wrong row does: `stop` the run, or be dropped and counted (`drop`).
        max_dropped: Share of the rows that may be wrong before the run stops all the same; null is any.
        max_length_ratio: Drop pairs whose longer answer has more than this times the other's characters.
        streaming: Train from the rows as they come, without reading the whole set first.
        toy: Settings of the toy world; only for `source: toy`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    source: Literal["hub", "files", "mix", "toy"]
    test_split: str | None = None
    mix: Annotated[list[MixedSource], Field(min_length=1)] | None = None
    duplicates: Literal["normalized", "exact", "keep"] = "normalized"
    conflicts: Literal["keep", "drop", "merge"] = "keep"
    control_tokens: Literal["refuse", "escape", "allow"] = "refuse"
    ties: Literal["keep", "drop"] = "keep"
    min_margin: float | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    max_rows: Annotated[int, Field(ge=2)] | None = None
    test_size: Annotated[float, Field(gt=0)]
    split_seed: int = 0
    overlong: Literal["drop", "cut", "stop"] = "drop"
    on_bad_row: Literal["stop", "drop"] = "stop"
    max_dropped: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_length_ratio: Annotated[float, Field(gt=1)] | None = None
    streaming: bool = False
    toy: ToySettings | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> "DataSettings":
        faults = [*self._source_faults(), *self._selection_faults(), *self._streaming_faults()]
        if self.source in ("hub", "files"):
            faults += self._reading_faults()
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _source_faults(self) -> Iterator[str]:
        keys, sentence = _NEEDED[self.source]
        if not any(getattr(self, key) for key in keys):
            yield sentence
        if self.source == "toy" and self.path:
            yield (
                f"data.path must be null for data=toy, which reads no file, got {self.path!r}; "
                "use data=jsonl or another recipe"
            )
        for key in _WITHOUT_EFFECT[self.source]:
            value, without = getattr(self, key), type(self).model_fields[key].default
            if value != without:
                yield f"data.{key} must be {shown(without)} where data.source is {self.source}, got {shown(value)}"
        if self.source != "toy" and self.toy is not None:
            yield f"data.toy must be null where data.source is {self.source}, which has no toy world"

    def _selection_faults(self) -> Iterator[str]:
        scored = self.score is not None or self.source in ("mix", "toy") or self.dialect in ("ranked", "rated")
        for key in ("top_k", "min_margin", "ties"):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default and not scored:
                yield (
                    f"data.{key} must be {shown(type(self).model_fields[key].default)} where data.score is null, got "
                    f"{shown(value)}; set data.score to the column that holds the strength of the preference"
                )
        if self.on_bad_row == "stop" and self.max_dropped is not None:
            yield f"data.max_dropped must be null where data.on_bad_row is stop, got {self.max_dropped:g}"
        if self.test_size >= 1 and self.test_size != int(self.test_size):
            yield f"data.test_size must be a share below 1 or a whole number, got {self.test_size}"

    def _streaming_faults(self) -> Iterator[str]:
        if not self.streaming or self.source == "toy":
            return
        why = "where data.streaming is true, since it needs the whole set"
        for key in _NEEDS_THE_WHOLE_SET:
            if (value := getattr(self, key)) is not None:
                yield f"data.{key} must be null {why}, got {shown(value)}"
        for key in ("duplicates", "conflicts"):
            if (value := getattr(self, key)) != "keep":
                yield f"data.{key} must be keep {why}, got {value}"
        if self.max_dropped is not None:
            yield f"data.max_dropped must be null {why}, got {self.max_dropped:g}"
        if self.test_size < 1 and self.test_split is None:
            yield (
                "data.test_size must be a number of prompts, the first of the rows, where data.streaming is true, got "
                f"the share {self.test_size:g}"
            )
