"""The files of a comparison and its table at the terminal: the same numbers in each, and text that stays text."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from matplotlib import image

from preftune.reporting.comparison import Comparison, Row, read_runs, read_sweep
from preftune.reporting.comparison_files import write_comparison
from preftune.reporting.comparison_terminal import print_comparison
from preftune.reporting.measures import MEASURES
from tests import sweeps
from tests.pages import HOSTILE, SHOWN, Parsed, harmless


def written(directory: Path) -> tuple[Comparison, Path]:
    comparison = read_sweep(directory)
    write_comparison(directory, comparison)
    return comparison, directory


def at_the_terminal(
    comparison: Comparison, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int = 80
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_comparison(comparison)
    return capsys.readouterr().out


def failing_sweep(root: Path) -> Path:
    """A sweep of two betas and two seeds, of which one failed and one did not begin."""
    directory = sweeps.write_sweep(root, betas=(0.1, 0.5), seeds=(0, 1))
    jobs = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))["jobs"]
    sweeps.fail(root / jobs[1]["directory"], "out of memory")
    jobs[1]["state"] = "failed"
    jobs[3] |= {"state": "not_run", "directory": None}
    return sweeps.write_jobs(root, jobs)


def test_csv_and_json_hold_the_numbers_of_the_table(tmp_path: Path) -> None:
    comparison, directory = written(failing_sweep(tmp_path))
    rows = list(csv.DictReader(io.StringIO((directory / "sweep.csv").read_text(encoding="utf-8"))))
    objects = json.loads((directory / "comparison.json").read_text(encoding="utf-8"))
    assert [row["rank"] for row in rows] == ["1", "2", "", ""]
    for row, line, one in zip(comparison.rows, rows, objects["rows"], strict=False):
        assert line["loss.beta"] == str(row.axes["loss.beta"])
        assert one["axes"] == row.axes
        for key, spread in row.values.items():
            assert (float(line[key]) if line[key] else None) == (spread.mean if spread else None)
            assert one["values"][key] == (
                {"mean": spread.mean, "stderr": spread.stderr, "n": spread.n} if spread else None
            )
        assert float(line["objective"]) == float(line["true_reward"])
        assert (line["verdict"], line["state"]) == (row.verdict, "complete")
        assert float(line["cost"]) == row.cost == one["cost"]
    assert [(line["state"], line["reason"]) for line in rows[2:]] == [("failed", "out of memory"), ("not_run", "")]
    assert [job["state"] for job in objects["unranked"]] == ["failed", "not_run"]
    assert objects["recommendation"]["sentence"]
    assert len(objects["frontier"]["lines"]) == 2


def test_the_page_shows_each_row_and_each_job_without_a_result(tmp_path: Path) -> None:
    comparison, directory = written(failing_sweep(tmp_path))
    page = Parsed((directory / "report.html").read_text(encoding="utf-8"))
    for row in comparison.rows:
        assert f"{row.rank}. {row.label}" in page.text
        for key, spread in row.values.items():
            assert spread is not None
            assert format(spread.mean, MEASURES[key].form) in page.text
    assert "failed: out of memory" in page.text
    assert "beta=0.5 seed=1 not run" in page.text
    assert "2 came to no result" in page.text
    assert harmless(page)


def test_the_page_links_to_the_reports_of_the_runs_that_have_one(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.1, 0.5))
    (tmp_path / "runs" / "tiny-toy-sigmoid-0.1-0" / "report.html").write_text("x", encoding="utf-8")
    written(directory)
    links = [value for name, value in Parsed((directory / "report.html").read_text()).attributes if name == "href"]
    assert links == ["../../runs/tiny-toy-sigmoid-0.1-0/report.html"]
    assert (directory / links[0]).is_file()


def test_the_picture_is_a_png_with_something_drawn(tmp_path: Path) -> None:
    _, directory = written(sweeps.write_sweep(tmp_path, seeds=(0, 1)))
    pixels = image.imread(directory / "frontier.png")
    assert pixels.shape[:2] == (800, 1280)
    assert len({tuple(pixel) for pixel in pixels[::4, ::4, :3].reshape(-1, 3).round(2)}) > 20


def test_without_sampled_answers_there_is_no_picture_and_the_page_says_why(tmp_path: Path) -> None:
    directory = sweeps.write_sweep(tmp_path, betas=(0.1, 0.2))
    written(directory)
    for path in (tmp_path / "runs").iterdir():
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        kept = [json.dumps(line) for line in lines if "kl/sampled" not in line]
        (path / "metrics.jsonl").write_text("\n".join(kept), encoding="utf-8")
        sweeps.change(path / "summary.json", kl_to_reference=None)
    written(directory)
    assert not (directory / "frontier.png").exists()
    assert "No answers were sampled" in Parsed((directory / "report.html").read_text(encoding="utf-8")).text


def test_a_run_that_logged_no_samplings_has_its_start_and_its_end_on_the_frontier(tmp_path: Path) -> None:
    path = sweeps.write_run(tmp_path / "old", sweeps.configuration(0.1, 0), sweeps.events(0.1, 0))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    (path / "metrics.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines if "kl/sampled" not in line), encoding="utf-8"
    )
    write_comparison(tmp_path / "out", read_runs([path]))
    drawn = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))["frontier"]["lines"]
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    ends = [(0.0, 0.3), (summary["kl_to_reference"]["mean"], summary["true_reward"]["policy"]["mean"])]
    assert [(point["kl"], point["height"]) for point in drawn[0]["points"]] == ends


def test_the_frontier_holds_a_point_for_each_evaluation_with_its_error_over_seeds(tmp_path: Path) -> None:
    _, directory = written(sweeps.write_sweep(tmp_path, betas=(0.1,), seeds=(0, 1)))
    points = json.loads((directory / "comparison.json").read_text(encoding="utf-8"))["frontier"]["lines"][0]["points"]
    ends = [[event for event in sweeps.events(0.1, seed) if "kl/sampled" in event][-1] for seed in (0, 1)]
    assert len(points) == sweeps.POINTS + 1
    low, high = (event["kl/sampled"] for event in ends)
    assert points[-1]["kl"] == pytest.approx((low + high) / 2)
    assert points[-1]["kl_stderr"] == pytest.approx((high - low) / 2)  # of two, sd / sqrt(2) is half their distance


def test_the_table_fits_eighty_columns_and_leads_with_the_objective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = read_sweep(failing_sweep(tmp_path))
    text = at_the_terminal(comparison, capsys, monkeypatch)
    table, _, rest = text.partition("\n\n")
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"beta +reward +verdict +KL +accuracy +chosen Δ", table)
    first: Row = comparison.rows[0]
    spread = first.values["true_reward"]
    assert spread is not None
    assert f"{spread.mean:.3f}" in table.splitlines()[3]
    assert "failed: out of memory" in rest
    assert "Take beta=0.1" in rest


def test_long_values_of_settings_do_not_push_the_numbers_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        sweeps.write_run(
            tmp_path / name, sweeps.configuration(0.1, 0, method=name * 60, engine=name * 60), sweeps.events(0.1, 0)
        )
        for name in "ab"
    ]
    text = at_the_terminal(read_runs(paths), capsys, monkeypatch)
    assert max(map(len, text.splitlines())) <= 80
    assert "reward" in text.splitlines()[1]


def test_text_of_settings_reasons_and_verdicts_makes_no_element(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sweeps.write_run(tmp_path / "runs" / "a", sweeps.configuration(0.1, 0), sweeps.events(0.1, 0), HOSTILE)
    sweeps.fail(sweeps.write_run(tmp_path / "runs" / "b", sweeps.configuration(0.2, 0), sweeps.events(0.2, 0)), HOSTILE)
    jobs = [
        sweeps.job(0, {HOSTILE: f"{HOSTILE} $x^{{$"}, str(path)),  # half a formula, which has no picture
        sweeps.job(1, {HOSTILE: "[/bold]"}, "runs/b", "failed"),
        sweeps.job(2, {HOSTILE: "x"}, None, "killed", reason=HOSTILE),
    ]
    directory = sweeps.write_jobs(tmp_path, jobs)
    sweeps.change(directory / "sweep.json", name=HOSTILE, command=[HOSTILE])
    comparison, _ = written(directory)
    page = Parsed((directory / "report.html").read_text(encoding="utf-8"))
    assert harmless(page)
    assert page.text.count(SHOWN) >= 6
    text = at_the_terminal(comparison, capsys, monkeypatch, columns=200)
    assert "[/bold]" in text
    assert not re.search(r"[\x00\x1b\u202e\ud800]", text)
    cells = [cell for line in csv.reader(io.StringIO((directory / "sweep.csv").read_text("utf-8"))) for cell in line]
    assert SHOWN in cells


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    path = sweeps.write_run(tmp_path / "a", sweeps.configuration(0.1, 0), sweeps.events(0.1, 0), "=cmd()")
    write_comparison(tmp_path / "out", read_runs([path]))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text("utf-8"))))
    assert rows[0]["verdict"] == "'=cmd()"


def test_many_jobs_are_told_apart_by_order_and_the_legend_names_five(tmp_path: Path) -> None:
    betas = tuple(round(0.01 * 1.3**place, 4) for place in range(14))
    _, directory = written(sweeps.write_sweep(tmp_path, betas=betas))
    html = (directory / "report.html").read_text(encoding="utf-8")
    legend = re.findall(r'<ul class="legend">(.*?)</ul>', html)[0]
    assert legend.count("<li ") == 5
    named = [float(beta) for beta in re.findall(r"beta=([\d.]+)", legend)]
    assert named == sorted(named)
    assert (named[0], named[-1]) == (betas[0], betas[-1])
    assert len(set(re.findall(r"\.line-\d+ \{ --line: (#\w+); \}", html))) == 28
