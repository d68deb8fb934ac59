"""The documents are true to the tree: every command is taken, every path exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from preftune import command_line
from preftune.reporting.metric_names import METRICS
from recipes import cache, compare, dashboard

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = "\n".join([README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))])
COMMANDS = re.findall(r"^    python -m recipes\.run\b *(.*)$", DOCS, flags=re.M)
DASHBOARDS = re.findall(r"^    python -m recipes\.dashboard\b *(.*)$", DOCS, flags=re.M)
LOOKS = re.findall(r"^    python -m recipes\.pairs\b *(.*)$", DOCS, flags=re.M)
CACHES = re.findall(r"^    python -m recipes\.cache\b *(.*)$", DOCS, flags=re.M)
COMPARISONS = re.findall(r"^    python -m recipes\.compare\b *(.*)$", DOCS, flags=re.M)
MAKE_WORDS = re.findall(r"^    make (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.M)
TREE = README[README.index("## The house") :]


def test_the_readme_names_as_many_commands_as_are_tested() -> None:
    assert len(COMMANDS) == 23
    assert len(DASHBOARDS) == 2
    assert len(LOOKS) == 1
    assert len(COMPARISONS) == 3
    assert len(CACHES) == 3
    assert set(MAKE_WORDS) == {"run", "test", "check", "fix"}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_readme_is_accepted(command: str) -> None:
    assert command_line.checked(shlex.split(command), ROOT / "conf")


@pytest.mark.parametrize("look", LOOKS)
def test_each_look_at_pairs_of_the_readme_is_accepted(look: str) -> None:
    assert command_line.checked(shlex.split(look), ROOT / "conf", sweeps=False)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_each_comparison_of_the_readme_is_accepted(comparison: str) -> None:
    asked = compare.arguments().parse_args(shlex.split(comparison))
    assert {path.parts[0] for path in asked.directories} <= {"runs", "sweeps"}


@pytest.mark.parametrize("typed", CACHES)
def test_each_look_at_the_cache_of_the_readme_is_accepted(typed: str) -> None:
    assert cache.arguments().parse_args(shlex.split(typed))


@pytest.mark.parametrize("typed", DASHBOARDS)
def test_each_dashboard_of_the_readme_is_built(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dashboard", *shlex.split(typed), "--out", "specification.json"])
    dashboard.main()
    assert (tmp_path / "specification.json").is_file()


def test_every_metric_of_a_dashboard_is_explained() -> None:
    explained = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = {re.sub(r"^(eval|train)_", "", metric.name) for metric in METRICS}
    assert not [name for name in sorted(names - {"terms/<term>"}) if f"`{name}`" not in explained]
    assert len(names) > 40


def test_make_knows_each_word_that_the_documents_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in MAKE_WORDS:
        assert re.search(rf"^{word}:", makefile, flags=re.M)


def test_the_tree_of_the_readme_exists_and_names_every_part() -> None:
    named = re.findall(r"^      ([a-z_]+(?:/|\.py)) ", TREE, flags=re.M)
    parts = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "src" / "preftune").iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith("__")
    }
    unnamed = {"caches.py", "refusals.py", "seals.py", "settings.py", "space.py", "spelling.py"}
    assert set(named) == parts - unnamed - {"py.typed"}


def test_each_choice_that_the_readme_names_is_a_file() -> None:
    for group, name in re.findall(r"\b(model|data|loss|adapter|track|experiment)=([a-z0-9_]+)\b", DOCS):
        assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"{group}={name}"


def test_no_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    mine = [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    assert len(mine) > 80
    pattern = re.compile("/(wo" + "rk|ro" + "ot|ho" + "me)/")
    assert not [str(path) for path in mine if pattern.search(path.read_text(encoding="utf-8"))]
