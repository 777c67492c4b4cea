"""Which runs a search asks for, given what the store knows, and that its cells stay apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnstudy import search
from bnstudy.config import Config, Optim, Search, Sweep, Train, validate
from bnstudy.data.sources import Source
from bnstudy.jobs import Job
from bnstudy.store import State

SOURCE = Source("fashion_mnist", "arrays", Path("nowhere"), "0" * 64, 100, 10, (1, 28, 28), 10)
EDGES = {("batch", 0): 7.0, ("batch", 1): 2.0, ("none", 0): 0.05, ("none", 1): 50.0}  # norm, seed -> edge
GRID = (0.1, 1.0, 10.0)
LR = Search(axis="optim.lr", factor=1.5)


class Known:
    """A store whose runs ended as EDGES has it, of those that were made."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def make(self, job: Job) -> None:
        edge = EDGES[job.config.norm["name"], job.config.seed]
        self.ended[job.run_id] = "trained" if job.config.optim.lr <= edge else "diverged"

    def state(self, run_id: str, *, verify: bool = True) -> State:
        return State.completed if run_id in self.ended else State.absent

    def manifest(self, run_id: str) -> dict[str, Any]:
        return {"outcome": self.ended[run_id]}


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
    assert reached.jobs == tuple(grid(LR)) and not reached.found
    assert reached.at_least == 0 and reached.at_most == 4 * 3 and reached.more == "0 to 12"
    counts = []
    while pending := [job for job in reached.jobs if job.run_id not in store.ended]:
        counts.append(len(pending))
        for job in pending:
            store.make(job)
        reached = reach(store)
    assert counts == [12, 2, 2, 2]  # one cell trains nowhere, one everywhere
    assert not reached.more and len({job.run_id for job in reached.jobs}) == len(reached.jobs) == 18
    assert [f"{name}: {found}" for name, found in reached.found] == [
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
