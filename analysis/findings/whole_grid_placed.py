"""One BN before the pooling against BN everywhere and nowhere, on all of CIFAR-10 (Bjorck et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, stats, whole_grid
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.whole_grid import CHOSEN, PLACES, TRAINS

TITLE = "ResNet-20 on all of CIFAR-10 with one BN layer: accuracy against the learning rate"
CAPTION = f"BN everywhere, once before the pooling, and nowhere. {whole_grid.SHOWN}"
SWEEP = "whole_grid_placed"
NEEDS = {**whole_grid.NEEDS, **{f"whole_grid/{table}": where for table, where in whole_grid.NEEDS.items()}}
SIZE = whole_grid.SIZE
_SHARE = "share (before the pooling - nowhere) / (everywhere - nowhere) of the test accuracies"
SHARE, SHARE_PARTLY = (Part(_SHARE, above=low, below=high) for low, high in ((0.5, 0.85), (0.25, 1.0)))
GAINED = Need("gain of BN everywhere over nowhere", "BN everywhere is not above nowhere", above=0)
CLAIMS = (
    Claim(
        id="10-grid",
        origin="paper",
        where="Section 3.1, appendix E",
        scale="ResNet-20, 15 epochs",
        says="One BN layer at the very end gives about two thirds of BN's gain.",
        criterion=Criterion(
            (SHARE,),
            partial=(SHARE_PARTLY,),
            needs=(*whole_grid.needs(PLACES), GAINED),
            remark=f"{CHOSEN} {TRAINS}",
        ),
        published="90.1 % at rates up to 0.03 (recalled), of 81.9 to 93.2 %: 0.73",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    whole_grid.draw(fig, _runs(frames), PLACES)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    test = {place: whole_grid.at(runs, place, whole_grid.chosen(runs, place))["test"] for place in PLACES}
    everywhere, one = (stats.effect(test[place], test["none"]) for place in ("*", "before_pooling"))
    quantities = {SHARE.key: one / everywhere, GAINED.of: everywhere, **whole_grid.needed(runs, PLACES)}
    return {"10-grid": {name: criteria.single(of) for name, of in quantities.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return whole_grid.numbers(_runs(frames), PLACES)


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The runs of both sweeps."""
    both = {table: pd.concat([frames[f"whole_grid/{table}"], frames[table]], ignore_index=True)
            for table in whole_grid.NEEDS}  # fmt: skip
    return whole_grid.by_run(both)
