"""BN behind each of LeNet's four layers, or only behind some: all sixteen subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, DASH, accuracies, spread
from bnstudy.analysis.stats import Scale

SITES = ("norm1", "norm2", "norm3", "norm4")
LAYERS = {"norm1": "conv1", "norm2": "conv2", "norm3": "dense1", "norm4": "dense2"}
LEFT_OUT = {
    site: Part("what BN behind the layer adds to the training accuracy where the other three have it", above=0,
               unit="points", at=name)
    for site, name in LAYERS.items()
}  # fmt: skip
BEST_ALONE = Part("share of the gain of all four that BN behind the best single layer gives", above=0.8)

TITLE = "BN in every layer, or only in some"
CAPTION = (
    "LeNet on Fashion-MNIST, learning rate 1, three epochs. (a) Training accuracy in the last epoch with BN behind the "
    "layers that are filled in below; one dot a run, bar: mean with 95 % interval; orange: none. (b) What BN behind a "
    "layer adds to it where the other three have it, with 95 % intervals over seeds."
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
        criterion=Criterion(tuple(LEFT_OUT.values()), partial=1, remark="All four less all but this one, by seed."),
    ),
    Claim(
        id="textbook-subsets-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="BN behind one layer alone gives most of the gain.",
        criterion=Criterion(
            (BEST_ALONE,),
            partial=(Part(BEST_ALONE.of, above=0.5),),
            remark="Of the gain in training accuracy over no BN, seed by seed; the best layer is that of highest mean.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = _named(frames["runs"])
    cells, effects = fig.subplots(1, 2, width_ratios=(2.4, 1))
    order = sorted(runs["places"].unique(), key=lambda places: (len(places), places))
    floor = runs["train"].min() - 2
    for x, places in enumerate(order):
        figures.seeds(cells, x, runs[runs["places"] == places]["train"], "batch" if places else "none",
                      scale=Scale.plain)  # fmt: skip
    low = max(floor, 0.0)
    step = (runs["train"].max() - low) * 0.06
    for row, site in enumerate(SITES):
        y = low - (row + 0.5) * step
        for x, places in enumerate(order):
            face = figures.INK if site in places else "white"
            cells.plot([x], [y], "s", ms=6, mfc=face, mec=figures.MUTED, mew=0.7)
        cells.text(-0.6, y, LAYERS[site], ha="right", va="center", fontsize=7)
    cells.set_xticks([])
    cells.set_xlim(-2.4, len(order) - 0.3)
    cells.set_ylabel("training accuracy (%)")
    cells.set_yticks([tick for tick in cells.get_yticks() if low + step <= tick <= 100])
    cells.set_ylim(low - (len(SITES) + 0.3) * step, runs["train"].max() + step)
    figures.panel(cells, "a", "training accuracy by subset")
    for row, site in enumerate(SITES):
        of = stats.interval(_left_out(runs, site, "train"))
        effects.plot([of.low, of.high], [row, row], color=figures.INK, lw=1.4)
        effects.plot([of.mean], [row], "o", color=figures.INK, ms=5)
    effects.axvline(0, color=figures.MUTED, lw=0.9)
    effects.set_yticks(range(len(SITES)), list(LAYERS.values()))
    effects.set_ylim(len(SITES) - 0.5, -0.5)
    effects.set_xlabel("points of training accuracy")
    figures.panel(effects, "b", "what one of four adds")
    handles = [
        *figures.arm_entries(ARMS, "o"),
        figures.entry("BN behind this layer (a)", "s", colour=figures.INK),
        figures.entry("95 % interval (b)", colour=figures.INK, lw=1.4),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _named(frames["runs"])
    none = _of(runs, (), "train")
    gains = {site: stats.effect(_of(runs, (site,), "train"), none) for site in SITES}
    whole = stats.effect(_of(runs, SITES, "train"), none)
    best = max(gains, key=lambda site: gains[site].mean())
    return {
        "textbook-subsets-1": {
            part.key: criteria.single(_left_out(runs, site, "train")) for site, part in LEFT_OUT.items()
        },
        "textbook-subsets-2": {BEST_ALONE.key: criteria.single(gains[best] / whole)},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    for key, part in _named(frames["runs"]).groupby("places"):
        places: Any = key  # a tuple of sites
        value, place = str(spread(part["test"])), ", ".join(LAYERS[site] for site in places) or "nowhere"
        lines.append(
            Comparison(f"test accuracy (%), BN {place}", DASH, DASH, *((value, DASH) if places else (DASH, value)))
        )
    return lines


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `places` of its norms, and accuracies."""
    places = runs["norm_where"].map(lambda where: () if where == "none" else tuple(where.split(",")))
    return accuracies(runs).assign(places=places)


def _of(runs: pd.DataFrame, places: tuple[str, ...], side: str) -> pd.Series[float]:
    """Accuracies by seed with BN behind just these layers."""
    return runs[[each == places for each in runs["places"]]].set_index("seed")[side]


def _left_out(runs: pd.DataFrame, site: str, side: str) -> pd.Series[float]:
    """Accuracy with BN behind all four layers less that with BN behind the others, seed by seed."""
    others = tuple(each for each in SITES if each != site)
    return stats.effect(_of(runs, SITES, side), _of(runs, others, side))
