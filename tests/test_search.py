"""Which runs a search asks for, given what the store knows, and that its cells stay apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from bnstudy.config.schema import Config, Optim, Search, Sweep, Train, resolved, validate
from bnstudy.data.sources import Source
from bnstudy.store import reduction
from bnstudy.store.jobs import Job
from bnstudy.store.runs import State, Store
from bnstudy.sweep import search
from bnstudy.training import train

SOURCE = Source("fashion_mnist", "arrays", Path("nowhere"), "0" * 64, 100, 10, (1, 28, 28), 10)
EDGES = {("batch", 0): 7.0, ("batch", 1): 2.0, ("none", 0): 0.05, ("none", 1): 50.0}  # norm, seed -> edge
GRID = (0.1, 1.0, 10.0)
LR = Search(axis="optim.lr", factor=1.5)


class Known:
    """A store whose runs ended as EDGES has it, of those that were made."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self.configs: dict[str, dict[str, Any]] = {}

    def make(self, job: Job) -> None:
        edge = EDGES[job.config.norm["name"], job.config.seed]
        self.ended[job.run_id] = "trained" if job.config.optim.lr <= edge else "diverged"
        self.configs[job.run_id] = resolved(job.config)

    def state(self, run_id: str, *, verify: bool = True) -> State:
        return State.completed if run_id in self.ended else State.absent

    def manifest(self, run_id: str) -> dict[str, Any]:
        return {"outcome": self.ended[run_id], "config": self.configs[run_id]}


def grid(wanted: Search) -> list[Job]:
    return [
        Job(
            Config(model={"name": "lenet"}, norm={"name": norm}, optim=Optim(lr=lr), seed=seed, train=Train(epochs=1),
                   sweep=Sweep(name="mine", search=wanted)),
            SOURCE,
        )
        for lr in GRID for norm, seed in EDGES
    ]  # fmt: skip


def reach(store: Known) -> search.Reach:
    return search.reach(grid(LR), store)  # type: ignore[arg-type]


def test_a_sweep_without_a_search_is_its_grid() -> None:
    plain = grid(Search())
    assert search.reach(plain, Known()) == search.Reach(tuple(plain))  # type: ignore[arg-type]


def test_the_grid_comes_first_then_a_run_a_round_in_each_cell_that_has_a_bracket() -> None:
    store = Known()
    reached = reach(store)
    assert reached.jobs == tuple(grid(LR)) and not reached.largest
    assert reached.at_least == 0 and reached.at_most == 4 * 3 and reached.more == "0 to 12"
    counts = []
    while pending := [job for job in reached.jobs if job.run_id not in store.ended]:
        counts.append(len(pending))
        for job in pending:
            store.make(job)
        reached = reach(store)
    assert counts == [12, 2, 2, 2]  # one cell trains nowhere, one everywhere
    assert not reached.more and len({job.run_id for job in reached.jobs}) == len(reached.jobs) == 18
    assert [f"{name}: {found}" for name, found in reached.largest] == [
        "lenet-batch-s0, largest optim.lr that trains: 5.62 to 7.5",
        "lenet-batch-s1, largest optim.lr that trains: 1.78 to 2.37",
        "lenet-none-s0, largest optim.lr that trains: none of those tried",
        "lenet-none-s1, largest optim.lr that trains: at or above 10",
    ]


def test_any_order_of_making_ends_with_the_same_runs() -> None:
    ends = []
    for last in (0, -1):
        store = Known()
        while pending := [job for job in reach(store).jobs if job.run_id not in store.ended]:
            store.make(pending[last])  # one at a time, as after a cut
        ends.append(store.ended)
    assert ends[0] == ends[1]


def test_what_is_looked_for_is_no_part_of_a_run() -> None:
    searched, plain = grid(LR), grid(Search())
    assert [job.run_id for job in searched] == [job.run_id for job in plain]
    judged = [Job(replace(job.config, sweep=Sweep(outcome_by="losses")), SOURCE) for job in plain]
    assert [job.run_id for job in judged] == [job.run_id for job in plain]


def test_by_losses_the_search_and_the_tables_judge_alike(tmp_path: Path) -> None:
    """Accuracies never reach 30 %; with BN runs learn up to 1.8, without they are at chance and diverge above it."""
    store = Store(tmp_path)
    by_losses = Sweep(search=LR, outcome_by="losses")
    wanted = [Job(replace(job.config, sweep=by_losses), SOURCE) for job in grid(LR) if job.config.seed == 0]

    def make(job: Job) -> None:
        lr, batch = job.config.optim.lr, job.config.norm["name"] == "batch"
        losses = [2.3] * 60 + ([math.inf] if lr > 1.8 and not batch else [2.0 if batch and lr <= 1.8 else 2.3] * 60)
        writer = store.writer(job.run_id)
        nothing = [0.0] * len(losses)
        rows = {"accuracy": nothing, "lr": nothing, "gradient_norm": nothing}
        writer.add("steps", train.STEPS, {"step": list(range(len(losses))), "loss": losses, **rows})
        ended = "diverged" if math.isinf(losses[-1]) else "stalled"
        writer.finish(synthetic.manifest(resolved(job.config), outcome=ended, num_steps=len(losses)))

    while pending := [job for job in search.reach(wanted, store).jobs if not store.state(job.run_id).done]:
        for job in pending:
            make(job)
    reached = search.reach(wanted, store)
    assert [f"{name}: {found}" for name, found in reached.largest] == [
        "lenet-batch-s0, largest optim.lr that learns: 1.78 to 2.37",
        "lenet-none-s0, largest optim.lr that learns: 1.78 to 2.37; none learns, finite",
    ]
    reduction.reduce(store, [job.run_id for job in reached.jobs], tmp_path / "tables", tables=[], outcome_by="losses")
    runs = pd.read_parquet(tmp_path / "tables" / "runs.parquet").set_index("run_id")
    assert set(runs["outcome"]) == {"learns", "at chance", "diverged"} and "last_loss" in runs
    for job in reached.jobs:
        assert runs["outcome"][job.run_id] == reduction.outcome(store, job.run_id, store.manifest(job.run_id), "losses")
    reduction.reduce(store, [job.run_id for job in reached.jobs], tmp_path / "tables", tables=[])
    runs = pd.read_parquet(tmp_path / "tables" / "runs.parquet")
    assert set(runs["outcome"]) == {"stalled", "diverged"} and "last_loss" not in runs


def test_a_run_that_diverged_by_a_bound_of_its_own_has_diverged(tmp_path: Path) -> None:
    """Whatever the bound is by which losses are judged, and however few there are."""
    store, (job, *_) = Store(tmp_path), grid(LR)
    writer = store.writer(job.run_id)
    others = {name: [0.0, 0.0] for name in list(train.STEPS)[2:]}
    writer.add("steps", train.STEPS, {"step": [0, 1], "loss": [2.3, 12.0], **others})
    writer.finish(synthetic.manifest(resolved(job.config), outcome="diverged", num_steps=2))
    assert reduction.outcome(store, job.run_id, store.manifest(job.run_id), "losses") == "diverged"


def test_an_unknown_way_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sweep\.outcome_by = 'loss': choose one of accuracy, losses"):
        validate(Config(sweep=Sweep(outcome_by="loss")))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Search(axis="optim.rate"), "sweep.search.axis = 'optim.rate': give a key whose value is a number above 0"),
        (Search(axis="seed"), "sweep.search.axis = 'seed'"),
        (Search(axis="optim"), "sweep.search.axis = 'optim'"),
        (Search(axis="optim.lr", factor=1.0), "sweep.search.factor = 1.0: give 1.05 or more"),
        (Search(axis="optim.lr", factor=float("nan")), "sweep.search.factor = nan"),
    ],
)
def test_a_search_that_cannot_be_is_refused(wanted: Search, words: str) -> None:
    with pytest.raises(ValueError, match=words.split(":")[0]):
        validate(Config(sweep=Sweep(search=wanted)))
