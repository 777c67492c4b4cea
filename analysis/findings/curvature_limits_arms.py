"""Whether the curvature at the start says the same of networks that start flat without BN (Lewkowycz et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import curvature
from bnstudy.analysis.criteria import Criterion, Sample
from bnstudy.analysis.curvature import KNOWN, SLOPE, SLOPE_PARTLY, WITHIN, WITHIN_PARTLY
from bnstudy.analysis.findings import Claim, Comparison

ARMS = ("batch", "batch_before_pooling", "skipinit", "fixup", "none")

TITLE = "Does the curvature at the start set the largest stable learning rate of any network?"
CAPTION = curvature.CAPTION
SWEEP = "stability_arms"
CURVATURES = ("stability_arms_curvature/hessian_top_eigenvalue", "stability_curvature/hessian_top_eigenvalue")
RUNS = ("runs", "stability_depth/runs")
NEEDS = {
    **dict.fromkeys(RUNS, f"status in ('completed', 'diverged') and epochs == 1 and {curvature.OF_DEPTHS}"),
    **dict.fromkeys(CURVATURES, curvature.OF_DEPTHS),
}
SIZE = (10.6, 4.8)
WHERE = "Lewkowycz et al. (2020), the catapult"
CLAIMS = (
    Claim(
        id="B2-slope-arms",
        where=WHERE,
        scale="true depth, one epoch",
        says="A network bears a learning rate as much larger as its loss is less curved where training begins, also "
        "where something else than BN makes it flat.",
        criterion=Criterion(
            (SLOPE,), partial=(SLOPE_PARTLY,), needs=(KNOWN,),
            remark="BN, one BN at the end, SkipInit, Fixup and none, of 8, 20 and 56 layers, seed by seed.",
        ),
        published="the largest rate is 4 to 12 over the curvature",
    ),
    Claim(
        id="B2-product-arms",
        where=WHERE,
        scale="true depth, one epoch",
        says="Beyond the curvature at the start, it makes no difference which network it is.",
        criterion=Criterion((WITHIN,), partial=(WITHIN_PARTLY,), needs=(KNOWN,), remark="As above."),
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
    runs, curved = (pd.concat([frames[name] for name in names]) for names in (RUNS, CURVATURES))
    return curvature.networks(runs, curved, ARMS)
