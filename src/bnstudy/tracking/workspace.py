"""The study's dashboard at W&B, as code: which panels there are, over the names that the mirror gives to its numbers.

What a name stands for is decided where runs are mirrored (`training/trainer.py`, `wandb.py`; `summaries` for probes);
nothing here is read back by the study.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2.interface as panels
import wandb_workspaces.workspaces as views

from bnstudy.analysis import figures
from bnstudy.store import files, paths
from bnstudy.tracking.wandb import confine, first_line, obstacle

NAME = "Batch normalization and learning rates"
ARM = panels.Config("norm.name")
RATE = panels.Config("optim.lr")
ACCURACY = panels.SummaryMetric("test_accuracy")
COLUMNS = (  # of the table of runs; a nested key stands below its first part's `value`
    "config:norm.value.name",
    "config:optim.value.lr",
    "config:seed.value",
    "summary:status",
    "summary:diverged_step",
)


def view(entity: str, project: str) -> views.Workspace:
    """The workspace: runs grouped by arm, those of BN and of none in the colours of the figures."""
    return views.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            _section("Learning rates, with BN and without", _grid()),
            _section(
                "Moments by depth", _by_depth("activation_moments", ("activation_ln_std", "activation_ln_abs_mean"))
            ),
            _section("Tails of the gradients", _by_depth("gradient_tails", ("hill", "kurtosis"))),
            _section("Divergence", _divergence()),
        ],
        settings=views.WorkspaceSettings(x_axis="Step", max_runs=100),
        runset_settings=views.RunsetSettings(
            groupby=[views.Config("norm.name")],
            group_colors={arm: colour for arm, colour in figures.COLOURS.items()},
            pinned_columns=list(COLUMNS),
        ),
    )


def spec(workspace: views.Workspace) -> dict[str, Any]:
    """What would be sent to W&B, as plain values. Needs no network and no account."""
    values: dict[str, Any] = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return values


def save(project: str, results: Path) -> int:
    """Save the workspace as a view of the project, and as a file; exit status 1, with a message, where that fails."""
    confine(results)
    file = paths.wandb(results) / "workspace.json"
    files.write_text(file, json.dumps(spec(view("", project)), indent=1) + "\n")
    if (reason := obstacle()) is not None:
        print(f"wandb-workspace: {reason}. What would be saved is in {file}", file=sys.stderr)
        return 1
    import wandb

    try:
        entity = wandb.setup().settings.entity or wandb.Api().default_entity  # WANDB_ENTITY is among the settings
        saved = view(str(entity), project).save()
    except Exception as error:  # whatever W&B raises
        print(f"wandb-workspace: W&B refused it ({first_line(error)})", file=sys.stderr)
        return 1
    print(f"wandb-workspace: {saved.url}")
    return 0


def _section(name: str, members: list[Any]) -> views.Section:
    return views.Section(name=name, panels=members, is_open=True)


def _grid() -> list[Any]:
    columns = [
        panels.ParallelCoordinatesPlotColumn(ARM, display_name="norm"),
        panels.ParallelCoordinatesPlotColumn(RATE, display_name="learning rate", log=True),
        panels.ParallelCoordinatesPlotColumn(ACCURACY, display_name="test accuracy"),
    ]
    return [
        panels.ScatterPlot(title="test accuracy by learning rate", x=RATE, y=ACCURACY, log_x=True),
        panels.ParallelCoordinatesPlot(title="norm, learning rate, test accuracy", columns=columns),
        _lines("test accuracy", ["epochs/test_accuracy"], x="epochs/epoch"),
        _lines("training loss", ["steps/loss"], log_y=True),
    ]


def _by_depth(probe: str, statistics: tuple[str, ...]) -> list[Any]:
    return [
        panels.LinePlot(
            title=f"{statistic}, a line per layer",
            metric_regex=rf"{probe}/depth_\d+/{statistic}",
            groupby=ARM,
            groupby_aggfunc="median",
            groupby_rangefunc="minmax",
        )
        for statistic in statistics
    ]


def _divergence() -> list[Any]:
    return [
        panels.ScatterPlot(title="step of divergence", x=RATE, y=panels.SummaryMetric("diverged_step"), log_x=True),
        _lines("norm of the gradient", ["steps/gradient_norm"], log_y=True),
        panels.RunComparer(diff_only="split"),
    ]


def _lines(title: str, metrics: list[str], *, x: str = "Step", log_y: bool = False) -> panels.LinePlot:
    return panels.LinePlot(
        title=title,
        x=x,
        y=list(metrics),
        log_y=log_y,
        groupby=ARM,
        groupby_aggfunc="median",
        groupby_rangefunc="minmax",
    )
