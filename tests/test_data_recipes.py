"""Every recipe of conf/data composes, and reads a local file in the layout that it is published in."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from preftune.data.loading import PreparedPairs, load_pairs
from preftune.data.settings import DataSettings

CONF = Path(__file__).parent.parent / "conf"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def dialogue(asked: str, answered: str) -> list[dict[str, str]]:
    return [user(asked), {"role": "assistant", "content": answered}]


def ultrafeedback(n: int) -> dict[str, object]:
    return {
        "source": "sharegpt",
        "prompt": f"Question {n}?",
        "chosen": dialogue(f"Question {n}?", f"Good {n}"),
        "chosen-rating": 5.0,
        "chosen-model": "a",
        "rejected": dialogue(f"Question {n}?", f"Bad {n}"),
        "rejected-rating": 1.0 + n % 4,
        "rejected-model": "b",
    }


def hermes2k(n: int) -> dict[str, object]:
    rendered = f"<|im_start|>user\nQuestion {n}?<|im_end|>\n<|im_start|>assistant\n"
    row: dict[str, object] = {"question": f"Question {n}?", "chosen": f"Good {n}", "rejected": f"Bad {n}"}
    if n % 2:
        row = {"prompt": rendered, "chosen": f"Good {n}<|im_end|>\n", "rejected": f"Bad {n}<|im_end|>\n"}
    return {**row, "delta_score": [0.5, 1.0, 2.0][n % 3]}


def hh_rlhf(n: int) -> dict[str, object]:
    shared = f"\n\nHuman: Hello {n}\n\nAssistant: Hi\n\nHuman: Question {n}?\n\nAssistant:"
    return {"chosen": f"{shared} Good {n}", "rejected": f"{shared} Bad {n}"}


def orca_pairs(n: int) -> dict[str, object]:
    system = "Be brief." if n % 2 else ""
    return {"system": system, "question": f"Question {n}?", "chosen": f"Good {n}", "rejected": f"Bad {n}"}


def sharegpt(n: int) -> dict[str, object]:
    return {
        "conversations": [{"from": "human", "value": f"Question {n}?"}],
        "chosen": {"from": "gpt", "value": f"Good {n}"},
        "rejected": {"from": "gpt", "value": f"Bad {n}"},
    }


def jsonl(n: int) -> dict[str, object]:
    return {"prompt": [user(f"Question {n}?")], "chosen": f"Good {n}", "rejected": f"Bad {n}"}


LAYOUTS = {
    "ultrafeedback": ultrafeedback,
    "hermes2k": hermes2k,
    "hh_rlhf": hh_rlhf,
    "orca_pairs": orca_pairs,
    "sharegpt": sharegpt,
    "jsonl": jsonl,
}


def chosen(*overrides: str) -> DataSettings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return DataSettings.model_validate(OmegaConf.to_container(compose("run", [*overrides]).data))


def loaded(tmp_path: Path, recipe: str, rows: list[dict[str, object]], *overrides: str) -> PreparedPairs:
    file = tmp_path / f"{recipe}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_pairs(chosen(f"data={recipe}", f"data.path='{file}'", *overrides))


def test_every_recipe_but_the_toy_has_a_layout_here():
    recipes = {path.stem for path in (CONF / "data").glob("*.yaml")}
    assert recipes == {*LAYOUTS, "toy", "mix"}
    assert len(recipes) == 8


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_a_recipe_reads_its_own_layout_from_a_local_file(tmp_path, recipe):
    prepared = loaded(tmp_path, recipe, [LAYOUTS[recipe](n) for n in range(40)])
    pairs = sorted([*prepared.train, *prepared.held_out], key=lambda pair: int(pair.chosen.split()[1]))
    assert [pair.chosen for pair in pairs] == [f"Good {n}" for n in range(40)]
    assert [pair.rejected for pair in pairs] == [f"Bad {n}" for n in range(40)]
    assert [pair.prompt[-1] for pair in pairs] == [user(f"Question {n}?") for n in range(40)]
    assert [pair.origin for pair in pairs] == [f"{recipe}.jsonl:{n + 1}" for n in range(40)]
    assert prepared.held_out


def test_what_every_recipe_can_choose_is_listed_once_with_the_defaults_of_the_record():
    of_a_source = {"name", "source", "id", "revision", "split", "test_split", "path", "dialect", "mix", "toy"}
    listed = OmegaConf.to_container(OmegaConf.load(CONF / "data/every/rows.yaml"))
    assert set(listed) == set(DataSettings.model_fields) - of_a_source
    record = DataSettings.model_validate({**listed, "name": "x", "source": "files", "path": "x", "dialect": "auto"})
    assert record == DataSettings(name="x", source="files", path="x", dialect="auto", test_size=0.05)


def test_ultrafeedback_carries_both_ratings_and_their_gap(tmp_path):
    prepared = loaded(tmp_path, "ultrafeedback", [ultrafeedback(n) for n in range(4)])
    found = {pair.chosen: dict(pair.extras) for pair in [*prepared.train, *prepared.held_out]}
    assert found["Good 1"] == {"score": 3.0, "score_chosen": 5.0, "score_rejected": 2.0}


def test_ultrafeedback_in_its_older_layout_needs_only_its_own_columns_named(tmp_path):
    rows = [
        {
            "prompt": f"Question {n}?",
            "prompt_id": f"{n:02x}",
            "chosen": dialogue(f"Question {n}?", f"Good {n}"),
            "rejected": dialogue(f"Question {n}?", f"Bad {n}"),
            "messages": dialogue(f"Question {n}?", f"Good {n}"),
            "score_chosen": 9.5,
            "score_rejected": 4.0,
        }
        for n in range(4)
    ]
    prepared = loaded(tmp_path, "ultrafeedback", rows, "data.score=[score_chosen,score_rejected]")
    assert prepared.train[0].extras["score"] == 5.5


def test_hermes2k_cuts_ties_by_content_whatever_the_order_of_rows(tmp_path):
    rows = [hermes2k(n) for n in range(40)]

    def kept(rows: list[dict[str, object]]) -> dict[str, float]:
        prepared = loaded(tmp_path, "hermes2k", rows, "data.top_k=20")
        return {pair.chosen: pair.extras["score"] for pair in [*prepared.train, *prepared.held_out]}

    # Of 40 rows, 13 have a gap of 2, 13 of 1 and 14 of 0.5: the cut at 20 falls among the ties at 1.
    scores = kept(rows)
    assert sorted(scores.values()) == [1.0] * 7 + [2.0] * 13
    assert kept(rows[::-1]) == scores


def test_the_ledger_of_a_run_adds_up(tmp_path):
    rows = [hermes2k(n) for n in range(40)]
    prepared = loaded(tmp_path, "hermes2k", [*rows, rows[0]], "data.top_k=30", "data.test_size=6")
    assert prepared.ledger.to_json() == {
        "train": {
            "source": "hermes2k.jsonl",
            "read": 41,
            "dropped": {"duplicate": 1, "duplicate but for case or space": 0, "beyond data.top_k": 10, "held out": 6},
            "more": 0,
            "kept": 24,
            "truncated": 0,
            "escaped": 0,
            "conflicting": 0,
            "shared_prompts": 0,
            "dialect": {"hermes2k.jsonl": "openhermes"},
            "wrong": [],
        },
        "held_out": {
            "source": "hermes2k.jsonl",
            "read": 6,
            "dropped": {},
            "more": 0,
            "kept": 6,
            "truncated": 0,
            "escaped": 0,
            "conflicting": 0,
            "shared_prompts": 0,
            "dialect": {},
            "wrong": [],
        },
    }
    assert (len(prepared.train), len(prepared.held_out)) == (24, 6)


def test_a_split_of_the_hub_is_held_out_and_its_prompts_leave_train(tmp_path, monkeypatch):
    directory = tmp_path / "owner/name"
    directory.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for split, numbers in (("train", range(10)), ("test", [8, 9, 9, 10])):
        lines = [json.dumps(hh_rlhf(n)) + "\n" for n in numbers]
        (directory / f"{split}.jsonl").write_text("".join(lines))
    prepared = load_pairs(chosen("data=hh_rlhf", "data.id=owner/name", "data.revision=null"))
    assert [pair.chosen for pair in prepared.train] == [f"Good {n}" for n in range(8)]
    assert [pair.origin for pair in prepared.held_out] == [f"owner/name[test]:{n}" for n in (1, 2, 4)]
    account = prepared.ledger.to_json()
    none = {"duplicate": 0, "duplicate but for case or space": 0}
    assert account["train"]["dropped"] == {**none, "prompt in the held-out split": 2}
    assert account["held_out"]["dropped"] == {**none, "duplicate": 1}
    assert account["held_out"]["kept"] == 3


@pytest.mark.parametrize("recipe", ["sharegpt", "jsonl"])
def test_a_recipe_of_local_files_asks_for_its_path(recipe):
    with pytest.raises(ValidationError, match=r"data\.path must name a local file, got null"):
        chosen(f"data={recipe}")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["data=toy", "+data.path=x.json"],
            "data.path must be null for data=toy, which reads no file, got 'x.json'",
        ),
        (["data=toy", "+data.score=gap"], "data.score must be null where data.source is toy, got 'gap'"),
        (["data=toy", "data.toy=null"], "data.toy must be given where data.source is toy, got null"),
        (
            ["data=hermes2k", "data.id=null"],
            "data.id must name a dataset, or data.path a local copy of it, got neither",
        ),
        (["data=hermes2k", "data.score=null"], "data.top_k must be null where data.score is null, got 2000"),
        (["data=hermes2k", "data.dialect=null"], "data.dialect must name the layout of the rows, got null"),
        (
            ["data=hermes2k", "data.test_size=1.5"],
            "data.test_size must be a share below 1 or a whole number, got 1.5",
        ),
        (
            ["data=jsonl", "data.path=x.json", "+data.id=o/n"],
            "data.id must be null where data.source is files, got 'o/n'",
        ),
        (
            ["data=hermes2k", "+data.toy={pairs: 8, label_noise: 0.0}"],
            "data.toy must be null where data.source is hub, which has no toy world",
        ),
    ],
)
def test_settings_that_do_not_agree_are_refused(overrides, sentence):
    with pytest.raises(ValidationError) as error:
        chosen(*overrides)
    assert sentence in str(error.value)


def test_faults_of_several_settings_are_told_together():
    with pytest.raises(ValidationError) as error:
        chosen("data=hermes2k", "data.score=null", "data.test_size=1.5")
    assert "data.top_k must be null" in str(error.value)
    assert "data.test_size must be a share" in str(error.value)
