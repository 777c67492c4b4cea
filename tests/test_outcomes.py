"""What became of a run, by its losses: the bounds, what does not tell, and chance below and above what learns."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from bnstudy.store import outcomes
from bnstudy.store.outcomes import CHANCE, DIVERGED, LEARNS, PARTIAL, TOO_LARGE, TOO_SMALL

LONG = outcomes.NUM_LAST


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ([2.0] * LONG, LEARNS),
        ([2.25] * LONG, CHANCE),  # below 2.25, not at it
        ([2.2499] * LONG, LEARNS),
        ([2.3] * LONG, CHANCE),
        ([2.3] * 300 + [2.0] * LONG, LEARNS),  # the last 50 alone
        ([2.0] * 300 + [2.3] * LONG, CHANCE),
        ([2.0] * (LONG - 1), PARTIAL),
        ([], PARTIAL),
        ([1e3] + [2.0] * LONG, LEARNS),  # above 1e3, not at it
        ([2.3, 1000.1], DIVERGED),
        ([2.3, math.inf], DIVERGED),
        ([2.3, math.nan], DIVERGED),
        ([1e4] + [2.0] * LONG, DIVERGED),  # whatever comes after
    ],
)
def test_losses_give_their_outcome(losses: list[float], outcome: str) -> None:
    assert outcomes.of_losses(losses) == outcome


@pytest.mark.parametrize(("num_classes", "below"), [(10, 0.3), (100, 0.03), (2, 0.625), (4, 0.4375)])
def test_what_counts_as_trained_lies_above_the_chance_of_so_many_classes(num_classes: int, below: float) -> None:
    assert outcomes.stalled_below(num_classes) == pytest.approx(below)
    assert outcomes.stalled_below(10) == 0.3  # to the bit: published runs were judged by it


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([CHANCE, LEARNS, CHANCE], [TOO_SMALL, LEARNS, TOO_LARGE]),
        ([CHANCE, LEARNS, CHANCE, LEARNS, DIVERGED], [TOO_SMALL, LEARNS, TOO_SMALL, LEARNS, DIVERGED]),
        ([CHANCE, CHANCE, DIVERGED], [CHANCE, CHANCE, DIVERGED]),  # nothing learns: nothing tells which
        ([PARTIAL, LEARNS], [PARTIAL, LEARNS]),
        ([], []),
    ],
)
def test_chance_is_told_apart_by_what_learns(given: list[str], told: list[str]) -> None:
    rates = [10.0**i for i in range(len(given))]
    cell = dict(sorted(zip(rates, given, strict=True), reverse=True))  # in any order
    assert outcomes.in_cell(cell) == dict(zip(rates, told, strict=True))


def steps(losses_by_rate: dict[float, list[float]], seed: int) -> pd.DataFrame:
    rows = [
        {"run_id": f"r{seed}{rate}", "run_lr": rate, "seed": seed, "step": step, "loss": loss}
        for rate, losses in losses_by_rate.items()
        for step, loss in enumerate(losses)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # rows in any order


def test_runs_are_told_apart_within_their_cell_alone() -> None:
    learns, chance = [2.3] * LONG + [2.0] * LONG, [2.0] * LONG + [2.3] * LONG
    frame = pd.concat([steps({0.1: chance, 1.0: learns}, 0), steps({0.1: chance, 1.0: [2.3, math.nan]}, 1)])
    runs = outcomes.by_run(frame, ["seed"]).set_index(["seed", "lr"])
    assert runs["outcome"].to_dict() == {(0, 0.1): TOO_SMALL, (0, 1.0): LEARNS, (1, 0.1): CHANCE, (1, 1.0): DIVERGED}
    assert runs["last_loss"][0, 1.0] == pytest.approx(2.0) and runs["num_losses"][1, 1.0] == 2


def test_two_runs_at_one_rate_are_no_cell() -> None:
    frame = pd.concat([steps({0.1: [2.0] * LONG}, 0), steps({0.1: [2.0] * LONG}, 1)])
    with pytest.raises(ValueError, match=r"r00\.1 and r10\.1 have the same rate and cell \(norm\)"):
        outcomes.by_run(frame.assign(norm="batch"), ["norm"])
