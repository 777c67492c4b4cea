"""BN behind each of LeNet's four layers, or only behind some: all sixteen subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, MINUS, accuracies, spread
from bnstudy.stats import Interval, interval

SITES = ("norm1", "norm2", "norm3", "norm4")
LAYERS = {"norm1": "conv1", "norm2": "conv2", "norm3": "dense1", "norm4": "dense2"}
SIDES = ("train", "test")
CELLS = 2 ** len(SITES)

TITLE = "BN in every layer, or only in some"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, three epochs. (a) Test accuracy with BN behind the layers that are "
    "filled in below; one dot a run, bar: median; orange: none. (b) What BN behind a layer gives on average over all "
    "subsets of the others, training accuracy in the last epoch (filled) and test accuracy (hollow), with 95 % "
    "intervals over seeds (Student's t)."
)
SWEEP = "textbook_subsets"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (10.8, 4.6)
WHERE = "Dive into Deep Learning, Batch Normalization, exercise: is BN needed in every layer?"
CLAIMS = (
    Claim(
        id="textbook-subsets-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN is needed in every layer: each one's adds to the training accuracy.",
        criterion="95 % interval of the main effect on training accuracy above 0: for all four layers (reproduced), "
        "for at least one (partly).",
    ),
    Claim(
        id="textbook-subsets-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN behind one layer alone gives most of the gain.",
        criterion="Gain in median training accuracy over no BN: the best single layer's is at least 80 % of that of "
        "all four (reproduced), at least half (partly).",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _named(frames["runs"])
    cells, effects = fig.subplots(1, 2, width_ratios=(2.4, 1))
    order = sorted(runs["places"].unique(), key=lambda places: (len(places), places))
    floor = runs["test"].min() - 2
    for x, places in enumerate(order):
        figures.seeds(cells, x, runs[runs["places"] == places]["test"], "batch" if places else "none")
    low = max(floor, 0.0)
    step = (runs["test"].max() - low) * 0.06
    for row, site in enumerate(SITES):
        y = low - (row + 0.5) * step
        for x, places in enumerate(order):
            face = figures.INK if site in places else "white"
            cells.plot([x], [y], "s", ms=6, mfc=face, mec=figures.MUTED, mew=0.7)
        cells.text(-0.6, y, LAYERS[site], ha="right", va="center", fontsize=7)
    cells.set_xticks([])
    cells.set_xlim(-2.4, len(order) - 0.3)
    cells.set_ylabel("test accuracy (%)")
    cells.set_yticks([tick for tick in cells.get_yticks() if low + step <= tick <= 100])
    cells.set_ylim(low - (len(SITES) + 0.3) * step, runs["test"].max() + step)
    figures.panel(cells, "a", "test accuracy by subset")
    figures.effects(effects, {LAYERS[site]: {side: _effect(runs, site, side) for side in SIDES} for site in SITES})
    figures.panel(effects, "b", "main effects")
    handles = [
        *figures.arm_entries("o"),
        figures.entry("BN behind this layer (a)", "s", colour=figures.INK),
        *figures.effect_entries("(b)"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = _named(frames["runs"])
    n = int((runs.groupby("seed")["places"].nunique() == CELLS).sum())
    effects = {site: _effect(runs, site, "train") for site in SITES}
    above = [found.above_zero for found in effects.values()]
    medians = runs.groupby("places")["train"].median()
    gains = {site: medians.get((site,), float("nan")) - medians.get((), float("nan")) for site in SITES}
    whole = medians.get(SITES, float("nan")) - medians.get((), float("nan"))
    best = max(gains, key=lambda site: gains[site])
    return {
        "textbook-subsets-1": Evidence(
            ", ".join(f"{LAYERS[site]} {found.mean:+.1f}" for site, found in effects.items()).replace("-", MINUS),
            "; ".join(f"{found.low:.1f} to {found.high:.1f}" for found in effects.values()).replace("-", MINUS),
            n,
            judge(n, whole=all(above), part=any(above)),
        ),
        "textbook-subsets-2": Evidence(
            f"{gains[best]:.1f} points behind {LAYERS[best]} alone, {whole:.1f} with all".replace("-", MINUS),
            "; ".join(f"{LAYERS[site]} {gain:.1f}" for site, gain in gains.items()).replace("-", MINUS),
            n,
            judge(n, whole=whole > 0 and gains[best] >= 0.8 * whole, part=whole > 0 and gains[best] >= 0.5 * whole),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    for key, part in _named(frames["runs"]).groupby("places"):
        places: Any = key  # a tuple of sites
        value, told = str(spread(part["test"])), ", ".join(LAYERS[site] for site in places) or "nowhere"
        lines.append(
            Comparison(f"test accuracy (%), BN {told}", DASH, DASH, *((value, DASH) if places else (DASH, value)))
        )
    return lines


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: `places` of its norms, and accuracies."""
    places = runs["norm_where"].map(lambda where: () if where == "none" else tuple(where.split(",")))
    return accuracies(runs).assign(places=places)


def _effect(runs: pd.DataFrame, site: str, side: str) -> Interval:
    """Mean accuracy with BN at the site minus that without, seed by seed, over seeds that have all subsets."""
    whole = runs[runs.groupby("seed")["places"].transform("nunique") == CELLS]
    there = whole["places"].map(lambda places: site in places).astype(bool)
    means = [whole[chosen].groupby("seed")[side].mean() for chosen in (there, ~there)]
    return interval(means[0] - means[1])
