"""The dashboard at W&B: every panel is over names that the mirror gives, and it is sent whole by the real client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import wandb
import wandb_workspaces.workspaces as views
from test_tracking import MOMENTS, TAILS
from wandb_stub import Backend

from bnstudy.analysis import figures
from bnstudy.config.schema import Config, to_dict
from bnstudy.tracking import workspace
from bnstudy.tracking.summaries import summarise
from bnstudy.training.train import EPOCHS, FINAL, STEPS

HILL: dict[str, Any] = {"depth": 55, "layer": "l55", "quantity": "hill", "x": 0.05, "x_high": None, "value": 1.5}


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return workspace.spec(workspace.view("lab", "p"))


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def test_every_line_is_of_a_number_that_the_mirror_sends(spec):
    sent = {f"steps/{name}" for name in STEPS} | {f"epochs/{name}" for name in EPOCHS} | {"_step"}
    sent |= summarise("activation_moments", MOMENTS).keys() | summarise("gradient_tails", [*TAILS, HILL]).keys()
    lines = [panel for section in panels(spec).values() for panel in section if "metrics" in panel]
    assert len(lines) == 7
    for panel in lines:
        assert {*panel["metrics"], panel["xAxis"]} <= sent
        if pattern := panel.get("metricRegex"):
            assert any(re.fullmatch(pattern, name) for name in sent), pattern
        assert panel["metrics"] or pattern


def test_every_axis_is_a_key_of_a_run(spec):
    keys = set(re.findall(r'"((?:config|summary):[\w.]+)"', json.dumps(spec)))
    summary = {f"summary:{name}" for name in (*FINAL, "status", "diverged_step")}
    values = to_dict(Config())

    def known(key: str) -> bool:
        """Whether a configuration has it; W&B puts `value` behind the first part."""
        first, value, *rest = key.removeprefix("config:").split(".")
        found = values[first]
        for name in rest:
            found = found[name]
        return value == "value"

    assert len(keys) >= 6 and all(key in summary or known(key) for key in keys), keys


def test_the_sections_the_arms_and_their_colours(spec):
    assert list(panels(spec)) == [
        "Learning rates, with BN and without",
        "Moments by depth",
        "Tails of the gradients",
        "Divergence",
    ]
    (runs,) = spec["section"]["runSets"]
    assert "norm.value.name" in json.dumps(runs["grouping"])
    assert set(spec["section"]["customRunColors"].values()) == set(figures.COLOURS.values())


@pytest.mark.slow
def test_it_is_saved_to_the_project_and_kept_in_a_file(tmp_path):
    command = [sys.executable, "-m", "bnstudy", "wandb-workspace", "--project", "p", "--results", str(tmp_path / "r")]
    with Backend() as backend:
        environment = {**os.environ, **backend.environment, "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (sent,) = backend.views
        other = environment | {"WANDB_ENTITY": "team", "WANDB_PROJECT": "q"}
        short = [word for word in command if word not in ("--project", "p")]
        assert subprocess.run(short, env=other, capture_output=True, timeout=300).returncode == 0
        assert (backend.views[1]["entityName"], backend.views[1]["projectName"]) == ("team", "q")
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("lab", "p", workspace.NAME)
    kept = json.loads((tmp_path / "r/wandb/workspace.json").read_text())
    assert panels(json.loads(sent["spec"])) == panels(kept)
    without = {name: value for name, value in environment.items() if name != "WANDB_API_KEY"}
    done = subprocess.run(command, env=without, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.startswith("wandb-workspace: there is no W&B key for ")


def test_an_error_without_a_text_is_named(tmp_path, monkeypatch, capsys):
    def fail():
        raise ConnectionResetError

    monkeypatch.setattr(workspace, "obstacle", lambda: None)
    monkeypatch.setattr(views.Workspace, "save", lambda self: fail())
    monkeypatch.setenv("WANDB_ENTITY", "lab")
    monkeypatch.setattr(wandb, "Api", fail)
    assert workspace.save("p", tmp_path) == 1
    assert "W&B refused it (ConnectionResetError)" in capsys.readouterr().err
