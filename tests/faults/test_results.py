"""What a complete run came to: a file of it that is not as it was written is refused, never shown or built upon."""

import itertools
from pathlib import Path

import pytest

from preftune.refusals import Refusal
from preftune.runs.directory import RunDirectory
from tests.spoilt import SPOILT

IDENTITY = "1" * 64
SEALED = ("summary.json", "samples.jsonl", "metrics.jsonl", "adapter/adapter_model.safetensors", "model/config.json")


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """Return the directory of a complete run."""
    path = tmp_path / "run"
    with RunDirectory.open(path, IDENTITY) as directory:
        directory.start({}, {})
        with directory.running():
            directory.log({"loss": 0.5}, step=3)
            for name in ("adapter/adapter_model.safetensors", "adapter/README.md", "model/config.json"):
                (path / name).parent.mkdir(exist_ok=True)
                (path / name).write_text(f"content of {name}")
            directory.write_results({"loss_last": 0.5}, [{"answer": "so"}], {})
            directory.progress(3, 3)
    return path


def read(path: Path) -> None:
    with RunDirectory.open(path, IDENTITY) as directory:
        previous = directory.previous()
    assert previous is not None
    assert previous.complete
    assert previous.summary == {"loss_last": 0.5}


def test_a_run_that_is_as_it_was_written_is_complete_and_its_model_card_may_be_edited(complete: Path) -> None:
    read(complete)
    (complete / "adapter" / "README.md").write_text("trained by me")
    read(complete)


@pytest.mark.parametrize(("name", "how"), itertools.product(SEALED, SPOILT))
def test_a_spoilt_file_is_refused_with_what_to_do(complete: Path, name: str, how: str) -> None:
    SPOILT[how](complete / name)
    with pytest.raises(Refusal) as refusal:
        read(complete)
    fault = "is missing" if how == "deleted" else "is not as it was sealed"
    assert str(refusal.value) == (
        f"what a complete run came to must be as it was written, got {complete}, where {name} {fault}; put it back, or "
        f"remove {complete / 'status.json'} to have it written again from the last checkpoint"
    )


def test_an_adapter_that_was_removed_as_a_whole_is_not_missed(complete: Path) -> None:
    for file in (complete / "adapter").iterdir():
        file.unlink()
    (complete / "adapter").rmdir()
    read(complete)


@pytest.mark.parametrize("status", ["", '{"state": "comp', "[]", "{}", '{"stape": "complete", "step": 3}'])
def test_a_spoilt_status_is_refused_with_what_to_do(complete: Path, status: str) -> None:
    (complete / "status.json").write_text(status)
    with pytest.raises(Refusal, match=r"status.json must hold .*; put it back, or remove it$"):
        read(complete)
