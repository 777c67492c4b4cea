"""Every sweep composes, says what it is for, and keeps the tables that findings ask for."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import synthetic

from bnstudy import probes
from bnstudy.analysis import findings, frames
from bnstudy.config import compose, plugins
from bnstudy.config.identity import run_id
from bnstudy.config.schema import Config, from_dict, to_dict
from bnstudy.store.reduction import config_columns
from bnstudy.training import train

DATA = {"name": "any", "source": "arrays", "sha256": "0" * 64}
PRESETS = ("quick", "full")
LOOP = {"epochs": train.EPOCHS, "steps": train.STEPS}


@cache
def runs(sweep: str, preset: str) -> list[Config]:
    """Those of one seed: seeds differ in nothing else, and there are thirty."""
    return compose.expand(sweep, preset, ["seed=1"])


@pytest.mark.parametrize("preset", [pytest.param("full", marks=pytest.mark.slow), "quick"])
@pytest.mark.parametrize("sweep", compose.sweeps())
def test_every_sweep_composes_for_every_preset(sweep: str, preset: str) -> None:
    configs = runs(sweep, preset)
    assert configs and {config.sweep.name for config in configs} == {sweep}
    assert len({run_id(config, DATA) for config in configs}) == len(configs), "two points of the sweep are one run"
    for config in configs:
        assert from_dict(to_dict(config)) == config
        assert set(config.sweep.presets) == set(PRESETS)


@pytest.mark.parametrize("sweep", compose.sweeps())
def test_every_sweep_opens_with_what_it_is_for(sweep: str) -> None:
    text = compose.describe(sweep)
    assert len(text.splitlines()) >= 2 and text.count(".") + text.count("?") >= 2 and "runs" in text
    assert not any(line.startswith("#") for line in text.splitlines())


@pytest.mark.parametrize("path", findings.discover(synthetic.FINDINGS), ids=lambda path: path.stem)
def test_what_a_finding_asks_of_a_table_is_there(path: Path) -> None:
    """The names in its queries are columns of the probe's table, of the loop's, or of the runs."""
    finding = findings.load(path)
    for name, query in finding.needs.items():
        sweep, table = frames.source(finding.sweep, name)
        config = runs(sweep, "quick")[0]
        kept = config.sweep.tables
        assert table == "runs" or kept is None or table in kept, f"{sweep} does not keep {table}"
        of_runs = {"run_id", "status", "outcome", *config_columns(to_dict(config))}
        columns = probes.columns(table) if table in plugins.names("probes") else LOOP.get(table, {})
        names = {node.id for node in ast.walk(ast.parse(query or "0")) if isinstance(node, ast.Name)}
        plain = {name.removeprefix("run_") for name in names}
        assert plain <= {"step", *columns, *of_runs}, f"{table}: {query}"
