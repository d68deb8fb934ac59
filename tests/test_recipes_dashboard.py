"""A dashboard shows what a run logs, and a run's files hold no secret: of one whole run, offline."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from preftune.reporting import dashboard
from preftune.reporting.metric_names import METRICS, SECTIONS, find
from tests.wandb_files import artifacts, configuration, history, offline_runs, seen_on_disk, started, summary, tables

ROOT = Path(__file__).parents[1]
SMALL = ("data.toy.pairs=64", "data.test_size=16", "train=smoke", "evaluate.prompts=4")
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY")


def command(recipe: str, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe in `home` as a person does whose environment and netrc file hold secrets."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    secrets = {name: f"CANARY{name}".ljust(40, "0") for name in SECRETS}
    place = {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    return subprocess.run(
        [sys.executable, "-m", f"recipes.{recipe}", *arguments],
        cwd=home,
        env=kept | secrets | place | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small run, tracked offline, on a machine that is full of secrets."""
    home = tmp_path_factory.mktemp("person")
    (home / ".netrc").write_text("machine api.wandb.ai login user password CANARYNETRC\n")
    (home / ".netrc").chmod(0o600)
    done = command("run", *SMALL, "track.log_adapter=true", home=home, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (directory,) = (home / "runs").iterdir()
    return directory


def logged(directory: Path) -> set[str]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return {key for line in lines for key in json.loads(line)} - {"step"}


def panels(specification: Any) -> list[dict[str, Any]]:
    sections = specification["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def shown(specification: Any) -> tuple[set[str], list[str]]:
    """Return the metrics of all panels, and the patterns."""
    configurations = [panel["config"] for panel in panels(specification)]
    names = {name for each in configurations for name in each.get("metrics") or []}
    return names, [each["metricRegex"] for each in configurations if each.get("metricRegex")]


def test_every_metric_that_a_run_logs_is_in_a_panel(tracked: Path) -> None:
    names, patterns = shown(dashboard.specification("preftune", "me"))
    found = logged(tracked)
    assert {"loss", "eval_loss", "eval_logratio/margin", "grad_norm"} <= found
    assert not [name for name in found - names if not any(re.fullmatch(pattern, name) for pattern in patterns)]


def test_every_metric_in_a_panel_is_logged_by_a_run_or_says_by_which(tracked: Path) -> None:
    names, patterns = shown(dashboard.specification("preftune", "me"))
    truth_is_known = {"a true reward is known"}  # the toy's
    some_runs_only = {metric.name for metric in METRICS if {metric.only} - truth_is_known - {""}}
    assert not names - logged(tracked) - some_runs_only
    assert sorted(patterns) == sorted(metric.pattern for metric in METRICS if metric.varies)


def test_each_metric_stands_in_one_place_with_unit_and_meaning() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert {metric.section for metric in METRICS} == set(SECTIONS)
    assert all(metric.unit and metric.meaning and metric.panel for metric in METRICS)
    for section in SECTIONS:
        of_panel: dict[str, set[str]] = {}
        for metric in METRICS:
            if metric.section == section and section != "Bookkeeping":
                of_panel.setdefault(metric.panel, set()).add(metric.unit)
        assert not {panel for panel, units in of_panel.items() if len(units) > 1}  # one axis has one unit


def test_a_metric_is_found_by_the_name_that_is_logged() -> None:
    source, term, exact = find("eval_sources/argilla/u-f/accuracy"), find("terms/nll_weight"), find("eval_kl/chosen")
    assert source is not None
    assert term is not None
    assert exact is not None
    assert (source.name, term.name, exact.unit) == ("eval_sources/<source>/accuracy", "terms/<term>", "nats")
    assert find("kl_chosen") is None


def test_the_panel_of_sweeps_goes_from_what_was_varied_to_what_came_of_it(tracked: Path) -> None:
    specification = dashboard.specification("preftune", "me")
    (sweep,) = [panel for panel in panels(specification) if panel["viewType"] == "Parallel Coordinates Plot"]
    axes = [column["accessor"] for column in sweep["config"]["columns"]]
    assert axes == [
        "config:loss.value.name",
        "config:loss.value.beta",
        "config:train.value.learning_rate",
        "summary:eval_accuracy",
        "summary:kl/sampled",
        "summary:true_reward/policy",
        "summary:verdict.word",
    ]
    (run,) = offline_runs(tracked)
    held = configuration(run)
    assert held["loss"].keys() >= {"name", "beta"}
    assert "learning_rate" in held["train"]
    assert summary(run).keys() >= {"eval_accuracy", "kl/sampled", "true_reward/policy"}
    assert summary(run)["verdict"]["word"]


def test_lines_run_over_optimizer_steps_and_single_batches_alone_are_smoothed() -> None:
    lines = [
        panel["config"]
        for panel in panels(dashboard.specification("preftune", "me"))
        if panel["viewType"] == "Run History Line Plot"
    ]
    assert {line["xAxis"] for line in lines} == {"step"}
    smoothed = {line["chartTitle"] for line in lines if line["smoothingType"] != "none"}
    assert "loss" in smoothed
    assert not {title for title in smoothed if "held out" in title}


def test_the_report_shows_the_panels_of_the_workspace() -> None:
    specification = dashboard.specification("preftune", "me")
    grids = [block for block in specification["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    titles = [p["config"].get("chartTitle") for g in grids for p in g["metadata"]["panelBankSectionConfig"]["panels"]]
    assert titles == [panel["config"].get("chartTitle") for panel in panels(specification)]


def test_the_offline_run_holds_what_a_person_looks_for(tracked: Path) -> None:
    (run,) = offline_runs(tracked)
    about = started(run)
    assert (about.project, about.job_type, about.run_group) == ("preftune", "train", "")
    assert about.display_name == tracked.name
    rows = history(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert logged(tracked) <= {key for row in rows for key in row}
    assert rows[0]["eval_accuracy"] == 0.5
    assert summary(run)["verdict"] == json.loads((tracked / "summary.json").read_text())["verdict"]
    (samples,) = tables(tracked)
    assert {"prompt", "reference", "policy"} <= set(samples["columns"])
    assert len(samples["data"]) == 4
    assert artifacts(run)["data-report"] == ["data.html", "data.json", "ledger.json"]
    assert "adapter_model.safetensors" in artifacts(run)["model"]


def test_no_secret_of_the_machine_and_no_trace_of_it_is_in_the_run(tracked: Path) -> None:
    content = seen_on_disk(tracked)
    assert b"CANARY" not in content
    (run,) = offline_runs(tracked)
    assert started(run).host == ""
    # Artifacts name the files that `wandb sync` is to upload, for itself alone.
    records = b"".join(record.SerializeToString() for record in run if not record.HasField("artifact"))
    for trace in (sys.executable, str(ROOT), str(tracked.parents[1]), "recipes.run", "data.toy.pairs=64"):
        assert trace.encode() not in records


def test_a_secret_on_the_command_line_is_refused_and_written_nowhere(tmp_path: Path) -> None:
    for typed in ("track.tags=[hf_CANARYCANARY]", "track.project=sk-CANARYCANARYCANARY", "+track.api_key=CANARY"):
        done = command("run", *SMALL, typed, home=tmp_path)
        assert done.returncode == 2
        assert "must be left out, got what looks like a secret" in done.stderr or "known setting" in done.stderr
        assert "CANARY" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_kept_only_where_there_is_one(tmp_path: Path) -> None:
    done = command("run", *SMALL, "adapter=full", "track.log_adapter=true", home=tmp_path)
    assert done.returncode == 2
    assert "track.log_adapter must be false for adapter=full, which trains no adapter, got true" in done.stderr


def test_without_credentials_the_specification_is_written_with_how_to_publish_it(tmp_path: Path) -> None:
    done = command("dashboard", "--project", "mine", home=tmp_path, WANDB_API_KEY="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "dashboard-mine.json holds the workspace and the report; nothing is published (no credentials found). "
        "To publish: `wandb login`, then `python -m recipes.dashboard --project mine`\n"
    )
    written = json.loads((tmp_path / "dashboard-mine.json").read_text())
    assert len(panels(written)) == len(panels(dashboard.specification("mine", "")))
    assert written["workspace"]["project"] == "mine"


def test_a_file_that_is_named_is_written_and_nothing_published(tmp_path: Path) -> None:
    done = command("dashboard", "--out", "deep/spec.json", "--entity", "team", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "deep" / "spec.json").read_text())["workspace"]["entity"] == "team"
    assert "nothing is published (--out deep/spec.json)" in done.stdout


def test_a_project_that_cannot_be_is_refused(tmp_path: Path) -> None:
    done = command("dashboard", "--project", "a/b", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "--project must be a name of 1 to 128 characters, none of / \\ # ? % :, got 'a/b'\n"


class Server(BaseHTTPRequestHandler):
    """Answers what W&B's server answers when a view is saved."""

    saved: list[dict[str, Any]] = []  # noqa: RUF012
    refuses = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query, values = asked["query"], asked.get("variables") or {}
        project = {"id": "p", "name": "mine", "entityName": "me", "createdAt": "2026-01-01T00:00:00"}
        project |= {"isBenchmark": False, "user": None, "entity": {"id": "e", "name": "me"}}
        data: dict[str, Any] = {"viewer": {"id": "v", "entity": "me", "username": "me", "teams": {"edges": []}}}
        if "upsertView" in query:
            self.saved.append(values)
            view = {"id": "1", "name": values["name"], "displayName": values["displayName"], "project": project}
            view |= {"type": "runs", "description": "", "spec": values["spec"], "user": {"username": "me"}}
            view |= {"previewUrl": None, "updatedAt": None, "createdAt": None, "coverUrl": None, "entityName": "me"}
            data = {"upsertView": {"view": view, "inserted": True}}
        page = {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": [{"node": project, "cursor": ""}]}
        if "models(" in query or "projects(" in query:
            data = {"models": page, "entity": {"projects": page}}
        answer = {"errors": [{"message": "permission denied"}]} if self.refuses else {"data": data}
        body = json.dumps(answer).encode()
        self.send_response(403 if self.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def takes_views(*, refuses: bool) -> Iterator[str]:
    Server.saved.clear()
    Server.refuses = refuses
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()


def test_with_credentials_both_are_published(tmp_path: Path) -> None:
    with takes_views(refuses=False) as address:
        done = command("dashboard", "--project", "mine", home=tmp_path, WANDB_BASE_URL=address)
    assert done.returncode == 0, done.stderr
    assert [(values["entityName"], values["displayName"]) for values in Server.saved] == [
        ("me", "mine: runs and sweeps"),
        ("me", "preftune"),
    ]
    assert len(re.findall(rf"^{address}/me/mine", done.stdout, flags=re.M)) == 2
    assert not list(tmp_path.glob("*.json"))


def test_a_server_that_refuses_is_named(tmp_path: Path) -> None:
    with takes_views(refuses=True) as address:
        done = command("dashboard", "--project", "mine", "--entity", "me", home=tmp_path, WANDB_BASE_URL=address)
    assert done.returncode == 1
    assert done.stderr.startswith("W&B must take the dashboard, got ")
    assert "Traceback" not in done.stderr
