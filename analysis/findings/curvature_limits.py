"""Whether the curvature at the start says at which learning rates a network trains (Lewkowycz et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import curvature
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.curvature import KNOWN, SLOPE, SLOPE_PARTLY, WITHIN, WITHIN_PARTLY
from bnstudy.analysis.findings import Claim, Comparison

ARMS = ("batch", "none")
RUNS = "stability_depth/runs"

TITLE = "Does the curvature at the start set the largest stable learning rate, with BN and without?"
CAPTION = curvature.CAPTION
SWEEP = "stability_curvature"
NEEDS = {
    "hessian_top_eigenvalue": curvature.OF_DEPTHS,
    RUNS: f"status in ('completed', 'diverged') and epochs == 1 and {curvature.OF_DEPTHS}",
}
SIZE = (10.6, 4.8)
WHERE = "Lewkowycz et al. (2020), the catapult"
CLAIMS = (
    Claim(
        id="B2-slope",
        where=WHERE,
        scale="true depth, one epoch",
        says="A network bears a learning rate as much larger as its loss is less curved where training begins.",
        criterion=Criterion(
            (SLOPE,), partial=(SLOPE_PARTLY,), needs=(KNOWN,),
            remark="With BN and without, of 8, 20 and 56 layers, seed by seed.",
        ),
        published="the largest rate is 4 to 12 over the curvature",
    ),
    Claim(
        id="B2-product",
        where=WHERE,
        scale="true depth, one epoch",
        says="Beyond the curvature at the start, it makes no difference whether a network has BN.",
        criterion=Criterion(
            (WITHIN,), partial=(WITHIN_PARTLY,), needs=(KNOWN,),
            remark="As above. Over more networks the ratio can only be larger.",
        ),
        published="4 to 12, a factor of 3",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    curvature.draw(fig, _networks(frames), ARMS)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    samples = curvature.samples(_networks(frames), ARMS)
    return {claim.id: samples for claim in CLAIMS}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return curvature.numbers(_networks(frames))


def _networks(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return curvature.networks(frames[RUNS], frames["hessian_top_eigenvalue"], ARMS)
