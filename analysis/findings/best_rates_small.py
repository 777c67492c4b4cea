"""Whether BN and SkipInit have one best learning rate on small mini-batches (De and Smith, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import best_rates
from bnstudy.analysis.best_rates import INSIDE, LEARNT
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.stats import Scale

ALIKE = Part("best rate with BN over that with SkipInit, mini-batches of 16", above=0.5, below=2, scale=Scale.log)

TITLE = "The best learning rate on mini-batches of 16"
CAPTION = best_rates.caption(16)
SWEEP = "best_rates_small"
NEEDS = {"runs": best_rates.of_size(16)}
SIZE = best_rates.SIZE
CLAIMS = (
    Claim(
        id="B6-small",
        where=best_rates.WHERE,
        scale="reduced",
        says="On small mini-batches BN and SkipInit have the same best learning rate.",
        criterion=Criterion((ALIKE,), needs=(INSIDE, LEARNT), remark=best_rates.BEST),
        published="at small mini-batches alike",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    best_rates.draw(fig, best_rates.by_run(frames["runs"]))


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {CLAIMS[0].id: best_rates.samples(best_rates.by_run(frames["runs"]), ALIKE)}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return best_rates.numbers(best_rates.by_run(frames["runs"]))
