"""A W&B workspace and report of a project's runs, with panels for all that `metric_names` lists.

Needs the package wandb-workspaces.
"""

from collections.abc import Iterable
from typing import Any

import wandb_workspaces.reports.v2 as reports
from wandb_workspaces import workspaces

from preftune.reporting.metric_names import METRICS, SECTIONS, Metric

# What a sweep varies, and what comes of it: W&B's configuration keys and summary keys.
VARIED = ("loss.name", "loss.beta", "train.learning_rate")
CAME_OF_IT = ("eval_accuracy", "kl/sampled", "true_reward/policy", "verdict.word")
_LOGARITHMIC = ("loss.beta", "train.learning_rate")
_TRAINED = "Metric('JobType') != 'sweep'"  # leaves out the runs that hold a sweep's report
_COLUMNS = 3
_ONCE = "Data"  # one value a run: bars in place of lines
_SMOOTHED = "Training"  # single batches scatter; what is held out is the mean of all its pairs
_SMOOTHING = 0.6  # of each point, from those before it; the points themselves stay visible


def workspace(project: str, entity: str) -> workspaces.Workspace:
    """Return the workspace of a project; it is not saved, and no server is asked."""
    sections = [workspaces.Section(name="Sweep", panels=_sweep_panels(), is_open=True, layout_settings=_layout(1, 3))]
    for name in SECTIONS:
        panels = list(_panels(name))
        opened = name != "Bookkeeping"
        sections.append(
            workspaces.Section(name=name, panels=panels, is_open=opened, layout_settings=_layout(_COLUMNS, 2))
        )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="preftune",
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="step", max_runs=20),
        runset_settings=workspaces.RunsetSettings(pinned_columns=_run_columns(), filters=_TRAINED),
        auto_generate_panels=False,
    )


def report(project: str, entity: str) -> reports.Report:
    """Return the report of a project, from the sweep down to each section; it is not saved, and no server is asked."""
    blocks: list[Any] = [
        reports.P(
            "Which setting, and why: first what each run varied and what came of it, then how it came. "
            "The held-out accuracy and the margin of log-ratios are free of beta; rewards are not."
        ),
        reports.H2("Sweep"),
        reports.PanelGrid(runsets=[_runset()], panels=_placed(_sweep_panels(), width=24)),
    ]
    for name in SECTIONS:
        blocks.append(reports.H2(name))
        blocks.append(reports.UnorderedList(items=[f"{m.name} ({m.unit}): {m.meaning}" for m in _of(name)]))
        panels = _placed(list(_panels(name)), width=8)
        blocks.append(reports.PanelGrid(runsets=[_runset()], hide_run_sets=True, panels=panels))
    return reports.Report(
        project=project, entity=entity, title=f"{project}: runs and sweeps", blocks=blocks, width="fluid"
    )


def publish(project: str, entity: str | None) -> list[str]:
    """Save both at W&B, and return their addresses.

    Args:
        project: Their project, which is made where it does not exist.
        entity: A user or team; None is the account's default.
    """
    entity = entity or reports.Report(project=project).entity
    summary = report(project, entity).save()
    return [workspace(project, entity).save().url, summary.url]


def specification(project: str, entity: str) -> dict[str, Any]:
    """Return both as W&B's server takes them: plain nested maps under `workspace` and `report`."""
    return {
        "workspace": workspace(project, entity)._spec,
        "report": report(project, entity)._to_model().model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _sweep_panels() -> list[Any]:
    column = reports.ParallelCoordinatesPlotColumn
    columns = [column(metric=reports.Config(key), log=key in _LOGARITHMIC) for key in VARIED]
    columns += [column(metric=reports.SummaryMetric(key)) for key in CAME_OF_IT]
    return [
        reports.ParallelCoordinatesPlot(title="what was varied, and what came of it", columns=columns),
        reports.RunComparer(diff_only="split"),
        reports.WeavePanelSummaryTable(table_name="samples"),
    ]


def _panels(section: str) -> Iterable[Any]:
    found: dict[str, list[Metric]] = {}
    for metric in _of(section):
        found.setdefault(metric.panel, []).append(metric)
    smoothed = section == _SMOOTHED
    for title, metrics in found.items():
        if section == _ONCE:
            yield reports.BarPlot(title=title, metrics=[metric.name for metric in metrics])
            continue
        varying = [metric.pattern for metric in metrics if metric.varies]
        yield reports.LinePlot(
            title=title,
            x="step",
            y=[metric.name for metric in metrics if not metric.varies],
            metric_regex="|".join(varying) or None,
            title_x="optimizer step",
            title_y=metrics[0].unit if metrics[0].unit != "1" else None,
            smoothing_type="exponentialTimeWeighted" if smoothed else "none",
            smoothing_factor=_SMOOTHING if smoothed else 0.0,
            smoothing_show_original=smoothed,
        )


def _of(section: str) -> list[Metric]:
    return [metric for metric in METRICS if metric.section == section]


def _layout(columns: int, rows: int) -> workspaces.SectionLayoutSettings:
    return workspaces.SectionLayoutSettings(columns=columns, rows=rows)


def _placed(panels: list[Any], width: int) -> list[Any]:
    """Lay panels out on a report's grid of 24 columns."""
    in_a_row = 24 // width
    for place, panel in enumerate(panels):
        panel.layout = reports.Layout(x=place % in_a_row * width, y=place // in_a_row * 8, w=width, h=8)
    return panels


def _run_columns() -> list[str]:
    return [
        "run:displayName",
        "run:group",
        *(f"config:{key.replace('.', '.value.', 1)}" for key in VARIED),
        *(f"summary:{key}" for key in CAME_OF_IT),
    ]


def _runset() -> reports.Runset:
    # Without project and entity it is of the report's own; with them the server would be asked for their numbers.
    return reports.Runset(name="runs", filters=_TRAINED, pinned_columns=_run_columns())
