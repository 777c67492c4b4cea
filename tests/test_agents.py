"""A sweep's twin at W&B: the same grid and no other, taken run by run by the real agent from a server here."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import pytest
import yaml
from small_runs import quadrants
from wandb_stub import Backend

from bnstudy import cli
from bnstudy.config import compose
from bnstudy.config.identity import canonical
from bnstudy.store.runs import State, Store
from bnstudy.tracking import agents

TINY = ["model=mlp", "model.hidden='16'", "data.name=quadrants", "data.batch_size=25", "data.augment=false"]
QUICK = ("lenet_lr_grid", "gradient_noise", "textbook_ghost_batch")  # axes of values, of files and of dictionaries
TINY += ["train.steps=2", "probes=none", "runtime.device=cpu", "data.normalise=unit"]


def points(twin: dict) -> list[list[str]]:
    """The arguments that W&B's agent gives to the runs of a grid, as it writes them."""
    names, values = list(twin["parameters"]), [each["values"] for each in twin["parameters"].values()]
    return [[f"{n}={v}" for n, v in zip(names, point, strict=True)] for point in itertools.product(*values)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sweep",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak) for name in compose.sweeps()],
)
def test_the_twin_of_every_sweep_has_its_runs_and_no_other(sweep):
    twin = agents.definition(sweep, "quick", [])
    given = twin["command"][twin["command"].index("quick") + 1 : -1]
    arguments = points(twin)
    chosen = [arguments[0], arguments[-1]]
    made = [compose.point(sweep, "quick", agents.run_overrides([*given, *point])) for point in chosen]
    runs = [canonical(config, {}) for config in compose.expand(sweep, "quick")]
    assert len(arguments) == len(set(runs))
    assert [canonical(config, {}) for config in made] == [runs[0], runs[-1]]
    assert {config.tracking.mode for config in made} == {"online"} and {c.sweep.name for c in made} == {sweep}


def test_every_point_of_a_grid_is_the_run_it_says():
    twin = agents.definition("lenet_lr_grid", "full", ["optim.lr=0.00001,1e-3,3", "seed=0,1", "norm=batch"])
    assert twin["parameters"] == {
        "axis.seed": {"values": [0, 1]},
        "axis.optim.lr": {"values": [1e-05, 0.001, 3]},
    }
    given = [["norm=batch", *agents.run_overrides(point)] for point in points(twin)]
    made = [compose.point("lenet_lr_grid", "full", each) for each in given]
    assert [(c.norm["name"], c.seed, c.optim.lr) for c in made] == list(
        itertools.product(["batch"], [0, 1], [1e-5, 1e-3, 3.0])
    )


def test_where_points_are_the_same_run_each_run_is_there_once():
    twin = agents.definition("lenet_lr_grid", "quick", ["optim.lr=0.1,0.10", "seed=0", "norm=batch,none"])
    assert twin["parameters"] == {"job": {"values": ["norm=batch optim.lr=0.1", "norm=none optim.lr=0.1"]}}
    (first, _) = points(twin)
    made = compose.point("lenet_lr_grid", "quick", ["seed=0", *agents.run_overrides(first)])
    assert (made.norm["name"], made.optim.lr, made.seed) == ("batch", 0.1, 0)


def test_a_run_of_a_sweep_names_the_axes_that_are_left_open():
    with pytest.raises(ValueError, match=r"one value of each of its axes; give seed, optim\.lr, as in seed=0$"):
        compose.point("lenet_lr_grid", "quick", ["norm=batch"])


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnstudy", *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_agents_make_the_grid_once_each(tmp_path):
    """Registered by the real client, taken by the real agent, each run mirrored to the server as it goes."""
    root, results = quadrants(tmp_path / "data"), tmp_path / "results"
    places = ["--results", str(results)]
    small = [*TINY, "norm=batch,none", "seed=0", "optim.lr=0.1", "tracking.project=mine"]
    with Backend() as backend:
        there = {**backend.environment, "HOME": str(tmp_path), "BNSTUDY_DATA_ROOT": str(root)}
        sweep = ("wandb-sweep", "lenet_lr_grid", "--preset", "quick")
        registered = command(*sweep, *places, *small, **there, WANDB_PROJECT="other")
        assert registered.returncode == 0, registered.stderr
        found = re.search(r"make wandb-agent SWEEP=(lab/mine/\w+)", registered.stdout)
        assert found is not None and "2 runs for agents" in registered.stdout
        agent = command("wandb-agent", found[1], *places, **there)
        assert agent.returncode == 0, agent.stderr
        (grid,) = backend.sweeps.values()
        assert grid.left == []
        runs = {str(run.display_name): run for run in backend.runs.values()}
    store = Store(results)
    assert set(runs) == set(store.run_ids()) and len(runs) == len(backend.runs) == 2
    assert {store.state(name) for name in runs} == {State.completed}
    assert {run.config["norm"]["name"] for run in runs.values()} == {"batch", "none"}  # as the run has it
    assert {run.config["axis.norm"] for run in runs.values()} == {"batch", "none"}  # as the sweep has it
    for name, run in runs.items():
        assert (run.group, run.sweep, run.exit_code) == ("lenet_lr_grid", "sweep1", 0)
        assert run.tags == ["mlp", run.config["norm"]["name"], "quadrants"]
        losses = store.table(name, "steps")["loss"].tolist()
        assert [row["steps/loss"] for row in run.history if "steps/loss" in row] == pytest.approx(losses)
        assert run.summary["status"] == "completed"
    assert not list(tmp_path.glob("wandb"))


def test_without_a_key_what_would_be_registered_is_written_down(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agents, "obstacle", lambda: "there is no W&B key")
    places = [f"--results={tmp_path / 'results'}", f"--data-root={tmp_path / 'data'}"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["wandb-sweep", "init", "--preset", "quick", places[0]])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("wandb-sweep: there is no W&B key. What would be registered is in ")
    twin = yaml.safe_load((tmp_path / "results/wandb/sweeps/init-quick.yaml").read_text())
    assert twin == agents.definition("init", "quick", [])
    assert not any(str(tmp_path) in word for word in twin["command"])  # agents have folders of their own
