"""The learning-rate grid on all of CIFAR-10, rates chosen on held-out images (Bjorck et al. 2018, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, stats, whole_grid
from bnstudy.analysis.criteria import Criterion, HoldsFor, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.whole_grid import CHOSEN, TRAINS

PLACES = ("*", "none")  # where BN sits

TITLE = "ResNet-20 on all of CIFAR-10: accuracy against the learning rate"
CAPTION = f"With BN and without. {whole_grid.SHOWN}"
SWEEP = "whole_grid"
NEEDS = whole_grid.NEEDS
SIZE = whole_grid.SIZE
GAIN = Part("test accuracy with BN everywhere at its rate less at the rate of the network without", above=0,
            unit="points")  # fmt: skip
ALONE = Part("whether the network without BN trains at the rate of BN everywhere (1) or not (0)", below=0.5,
             holds_for=HoldsFor.every)  # fmt: skip
LOST, UNUSED = (
    Part(f"rates at which every seed trains with BN everywhere and {what}", above=0.5, holds_for=HoldsFor.every)
    for what in ("every seed diverges without", "none trains without")
)
CONTROL = Need(
    "number of rates at which every seed trains without BN", "without BN no rate trains in every seed", above=0.5
)
OTHER = Need("number of rates that BN everywhere and nowhere both choose", "both arms choose the same rate", below=0.5)
CLAIMS = (
    Claim(
        id="2-best-grid",
        origin="paper",
        where="Section 2.1",
        scale="ResNet-20, 15 epochs",
        says="The gain of BN comes with larger learning rates: its best is one that does not train without BN.",
        criterion=Criterion(
            (GAIN, ALONE), partial=(GAIN,), needs=(*whole_grid.needs(PLACES), OTHER), remark=f"{CHOSEN} {TRAINS}"
        ),
        published="93.2 % at 0.1, which diverges without BN; 81.3 % at 0.0001 (ResNet-110)",
    ),
    Claim(
        id="4-grid",
        origin="paper",
        where="Section 3, text",
        scale="ResNet-20, 15 epochs",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion=Criterion((LOST,), partial=(UNUSED,), needs=(CONTROL,), remark=TRAINS),
        published="0.1 (ResNet-110)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    whole_grid.draw(fig, whole_grid.by_run(frames), PLACES)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = whole_grid.by_run(frames)
    own, other = (whole_grid.chosen(runs, place) for place in PLACES)
    gained = stats.effect(whole_grid.at(runs, "*", own)["test"], whole_grid.at(runs, "*", other)["test"])
    alone = whole_grid.at(runs, "none", own)["kind"] == "trained"
    quantities = {
        GAIN.key: gained,
        ALONE.key: alone.astype(float).reindex(gained.index),
        OTHER.of: pd.Series(float(own == other), index=gained.index),
        **_by_rate(runs),
        **whole_grid.needed(runs, PLACES),
    }
    samples = {name: criteria.single(of) for name, of in quantities.items()}
    return {claim.id: samples for claim in CLAIMS}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return whole_grid.numbers(whole_grid.by_run(frames), PLACES)


def _by_rate(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """How many rates both arms were run at have what LOST, UNUSED and CONTROL name, the same for every seed."""
    rates = [float(rate) for rate in sorted(runs["lr"].unique())]
    kinds = {rate: [whole_grid.at(runs, place, rate)["kind"] for place in PLACES] for rate in rates}
    both = {rate: pair for rate, pair in kinds.items() if all(map(len, pair))}
    seeds = set.intersection(*(set(of.index) for pair in both.values() for of in pair)) if both else set()
    used = [without for with_bn, without in both.values() if (with_bn == "trained").all()]
    counts = {
        LOST.key: sum((of == "diverged").all() for of in used),
        UNUSED.key: sum(not (of == "trained").any() for of in used),
        CONTROL.of: sum((without == "trained").all() for _, without in both.values()),
    }
    return {name: pd.Series(float(count), index=sorted(seeds), dtype=float) for name, count in counts.items()}
