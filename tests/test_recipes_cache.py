"""The cache as a person sees it: listed, verified, pruned, with what is in use left alone."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preftune import caches
from preftune.caches import made_once
from preftune.runs.kept import entries, remove
from preftune.training.reference_store import ReferenceStore
from recipes import cache
from tests.test_training_reference_store import fill, holds, rows

ROOT = Path(__file__).parents[1]
KEY = "0123456789abcdef" * 2


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds one of everything, none of it in use."""
    root = tmp_path / "cache"
    monkeypatch.setenv("PREFTUNE_CACHE", str(root))
    monkeypatch.setenv("COLUMNS", "80")
    made_once(
        root / "pairs" / KEY, lambda place: (place / "facts.json").write_text('{"sizes": [500, 22]}'), of="[red]a.jsonl"
    )
    made_once(root / "tokens" / KEY, lambda place: (place / "ids").write_bytes(bytes(3 << 20)), of="522 pairs, a model")
    made_once(root / "toy" / KEY[:16], lambda place: (place / "model").touch(), of="the toy's model")
    made_once(root / "toy" / "answers" / f"{KEY[:16]}-0", lambda place: (place / "a").touch(), of="answers of the toy")
    store = ReferenceStore(root / "reference" / KEY, of="meta-llama/Meta-Llama-3-8B-Instruct, bfloat16, nf4")
    fill(store, rows(20).select(range(8)))
    fill(store, rows(20))
    for place in list(caches._HELD):
        caches.let_go(place)
    (root / "slots").mkdir()
    (root / "slots" / "machine-0.lock").touch()
    (root / "pairs" / "notes.txt").write_text("a person's own")
    return root


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["cache", *arguments])
    cache.main()
    return capsys.readouterr().out


def age(place: Path, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(place, (then, then))


def test_the_list_says_of_each_entry_what_it_is_within_80_columns(kept, monkeypatch, capsys):
    age(kept / "toy" / KEY[:16], 40)
    lines = typed(monkeypatch, capsys).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    text = "\n".join(lines)
    assert "[red]a.jsonl" in text
    assert [line.split()[0] for line in lines if " hour" in line or " ago" in line] == [
        *("data", "data", "reference", "toy", "toy")
    ]
    assert "522" in text
    assert "20" in next(line for line in lines if line.startswith("reference"))
    assert "40 days ago" in lines[-2]
    assert "3.0 MiB" in text
    assert lines[-1].startswith(f"5 entries of 3.0 MiB in {kept}, where ")


def test_an_empty_cache_is_listed_as_such(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "nothing"))
    assert typed(monkeypatch, capsys).startswith(f"0 entries of 0.0 MiB in {tmp_path}/nothing, where ")
    assert not (tmp_path / "nothing").exists()


def test_verify_finds_what_is_harmed_and_prune_removes_that_alone(kept, monkeypatch, capsys):
    assert typed(monkeypatch, capsys, "--verify") == "5 read whole, 0 of them harmed\n"
    raw = bytearray((kept / "tokens" / KEY / "ids").read_bytes())
    raw[1_000_000] ^= 1
    (kept / "tokens" / KEY / "ids").write_bytes(raw)
    shard = sorted((kept / "reference" / KEY).iterdir(), key=lambda file: file.stat().st_size)[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    (kept / "pairs" / f"{KEY}.0000abcd.partial").mkdir()
    with pytest.raises(SystemExit) as ending:
        typed(monkeypatch, capsys, "--verify")
    assert ending.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{kept}/pairs/{KEY}.0000abcd.partial: left by a process that was killed",
        f"{kept}/tokens/{KEY}: not as it was sealed",
        f"{kept}/reference/{KEY}: {shard.name[:8]} is torn or changed",
        "6 read whole, 3 of them harmed",
    ]
    assert typed(monkeypatch, capsys, "--verify", "--prune").splitlines()[-1].startswith("3 removed, ")
    assert not (kept / "tokens" / KEY).exists()
    assert not (kept / "pairs" / f"{KEY}.0000abcd.partial").exists()
    assert (kept / "pairs" / KEY).exists()
    store = ReferenceStore(kept / "reference" / KEY)
    assert len(store) == 12
    fill(store, rows(20))
    assert holds(store, rows(20))
    assert typed(monkeypatch, capsys, "--verify") == "4 read whole, 0 of them harmed\n"


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ((), []),
        (("--kind", "data"), ["reference", "toy", "toy"]),
        (("--older-than", "30"), ["data", "reference", "toy"]),
        (("--older-than", "30", "--kind", "toy"), ["data", "data", "reference", "toy"]),
    ],
)
def test_prune_removes_what_it_is_asked_to_and_nothing_of_others(kept, monkeypatch, capsys, arguments, left):
    age(kept / "toy" / KEY[:16], 40)
    age(kept / "pairs" / KEY, 31)
    typed(monkeypatch, capsys, "--prune", *arguments)
    assert [entry.kind for entry in entries(kept)] == left
    assert (kept / "slots" / "machine-0.lock").exists()
    assert (kept / "pairs" / "notes.txt").read_text() == "a person's own"
    if not left:
        assert {file.parent.name for file in kept.rglob("*.lock")} == {"slots"}


def test_prune_leaves_what_a_process_uses_and_names_it(kept, monkeypatch, capsys):
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()

    def use() -> None:
        made_once(kept / "pairs" / KEY, lambda place: pytest.fail(f"{place} was made again"))
        store = ReferenceStore(kept / "reference" / KEY)
        ready.set()
        done.wait(60)
        assert holds(store, rows(20))

    user = fork.Process(target=use)
    user.start()
    assert ready.wait(60)
    said = typed(monkeypatch, capsys, "--prune").splitlines()
    assert said[:-1] == [
        f"{kept}/pairs/{KEY} is in use and stays",
        f"{kept}/reference/{KEY} is in use and stays",
    ]
    assert said[-1].startswith("3 removed, ")
    done.set()
    user.join()
    assert user.exitcode == 0


def test_prune_leaves_what_is_being_made(kept):
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()

    def make(place: Path) -> None:
        (place / "half").touch()
        ready.set()
        done.wait(60)

    maker = fork.Process(target=made_once, args=(kept / "pairs" / KEY[::-1], make))
    maker.start()
    assert ready.wait(60)
    (half,) = [entry for entry in entries(kept) if entry.left]
    assert not remove(half)
    done.set()
    maker.join()
    assert maker.exitcode == 0
    assert (kept / "pairs" / KEY[::-1] / "half").exists()


def test_a_clock_that_was_set_back_makes_nothing_old(kept):
    age(kept / "pairs" / KEY, -3650)
    assert min(entry.days for entry in entries(kept)) == 0


@pytest.mark.parametrize("days", ["-1", "soon", "nan", "inf"])
def test_days_that_are_none_are_refused(days, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cache", "--prune", f"--older-than={days}"])
    with pytest.raises(SystemExit) as ending:
        cache.main()
    assert ending.value.code == 2
    assert f"must be a number of days, at least 0, got '{days}'" in capsys.readouterr().err


def test_help_names_every_option_and_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recipes.cache", "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for option in ("--kind {data,reference,toy}", "--older-than DAYS", "--verify", "--prune"):
        assert option in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() in ("torch", "datasets")]
