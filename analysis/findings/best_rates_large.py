"""Whether BN has the larger best learning rate on large mini-batches (De and Smith, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import best_rates
from bnstudy.analysis.best_rates import INSIDE, LEARNT
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.stats import Scale

APART = Part("best rate with BN over that with SkipInit, mini-batches of 1024", above=4, scale=Scale.log)

TITLE = "The best learning rate on mini-batches of 1024"
CAPTION = best_rates.caption(1024)
SWEEP = "best_rates_large"
NEEDS = {"runs": best_rates.of_size(1024)}
SIZE = best_rates.SIZE
CLAIMS = (
    Claim(
        id="B6-large",
        where=best_rates.WHERE,
        scale="reduced",
        says="On large mini-batches the best rate with BN is several times that with SkipInit.",
        criterion=Criterion(
            (APART,),
            partial=(Part(APART.of, above=1, scale=Scale.log),),
            needs=(INSIDE, LEARNT),
            remark=best_rates.BEST,
        ),
        published="at large mini-batches BN's is larger",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    best_rates.draw(fig, best_rates.by_run(frames["runs"]))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {CLAIMS[0].id: best_rates.samples(best_rates.by_run(frames["runs"]), APART)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return best_rates.numbers(best_rates.by_run(frames["runs"]))
