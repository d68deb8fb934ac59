"""`python -m recipes.compare`, as it is typed."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipes import compare
from tests import sweeps

ROOT = Path(__file__).parents[1]


def typed(monkeypatch: pytest.MonkeyPatch, root: Path, *words: str) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    compare.main()


def test_a_sweep_is_written_into_its_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.write_sweep(tmp_path, betas=(0.1, 0.5))
    before = (tmp_path / "sweeps" / "betas" / "sweep.json").read_bytes()
    typed(monkeypatch, tmp_path, "sweeps/betas")
    names = ["comparison.json", "frontier.png", "report.html", "sweep.csv", "sweep.json"]
    assert sorted(path.name for path in (tmp_path / "sweeps" / "betas").iterdir()) == names
    assert (tmp_path / "sweeps" / "betas" / "sweep.json").read_bytes() == before
    shown = capsys.readouterr().out
    assert "ranked by true reward" in shown
    assert shown.endswith("sweeps/betas/report.html\n")


def test_runs_are_written_to_a_directory_named_after_them_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps.write_sweep(tmp_path, betas=(0.1, 0.5))
    names = [f"runs/tiny-toy-sigmoid-{beta}-0" for beta in (0.1, 0.5)]
    typed(monkeypatch, tmp_path, *names)
    typed(monkeypatch, tmp_path, *reversed(names), "--objective", "eval.accuracy")
    (directory,) = (tmp_path / "comparisons").iterdir()
    assert len(directory.name) == 8
    assert "ranked by accuracy" in (directory / "report.html").read_text(encoding="utf-8")
    typed(monkeypatch, tmp_path, *names, "--out", "here/there")
    assert (tmp_path / "here" / "there" / "comparison.csv").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/gone"], "runs/gone must be a run's directory (a manifest.json) or a sweep's (a sweep.json)"),
        (["sweeps/betas", "sweeps/betas"], "a sweep must be given alone, got 2 directories"),
        (["sweeps/betas", "--out", "file/below"], "the comparison must go to a directory that can be written"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    sweeps.write_sweep(tmp_path, betas=(0.1,))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(SystemExit) as ending:
        typed(monkeypatch, tmp_path, *words)
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


def test_it_reads_runs_without_what_trains_them(tmp_path: Path) -> None:
    sweeps.write_sweep(tmp_path, betas=(0.1,))
    program = (
        "import sys; sys.argv = ['compare', 'sweeps/betas']; from recipes import compare; compare.main(); "
        "from preftune.reporting import run_page; "
        "print([name for name in ('torch', 'transformers', 'trl', 'wandb', 'datasets') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]"
