"""Which learning rates a network bears with BN and without, on a laptop's scale (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import rates
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, number

TITLE = "ResNet-20 on 128 images: the learning rates it bears with and without BN"
CAPTION = (
    "A small edition of the grid of learning rates: ResNet-20 instead of ResNet-110, 128 images of CIFAR-10 instead of "
    "50,000, 80 epochs instead of 165, without augmentation, tested on 1,000 images. (a) Accuracy on these; a mark a "
    "run, line: median, on the grid, of those that did not diverge; numbers below the axis: runs that diverged "
    "(mini-batch loss above 1000, or not finite); triangles: stalled (under 30 % on the training images). (b) Training "
    "minus test accuracy of the runs that trained. (c) The update that diverged. (d) The largest rate that trains, a "
    "bar a seed from a rate that does to one that does not; triangle: the largest that was tried trains; white dot: "
    "rates above the bar train again."
)
SWEEP = "lr_grid_reduced"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 7.2)
SMALL = "Section 3, at a laptop's scale"
CLAIMS = (
    Claim(
        id="4-reduced",
        where=SMALL,
        scale="reduced",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion="There is a rate of the grid at which every seed trains with BN and every seed diverges (mini-batch "
        "loss above 1000) without (reproduced); at which every seed trains with BN and none without (partly).",
        published="0.1 (ResNet-110)",
    ),
    Claim(
        id="4-largest-reduced",
        where=SMALL,
        scale="reduced",
        says="The largest learning rate that trains is an order of magnitude larger with BN.",
        criterion="In every seed the bracket without BN lies below that with BN, and the medians of their lower ends "
        "are a factor of 10 apart or more (reproduced); the first alone (partly). Undecided where in a seed no rate "
        "trains.",
        published="0.1 against 0.0001 are the rates used (ResNet-110)",
    ),
    Claim(
        id="2-best-reduced",
        where="Section 2.1, at a laptop's scale",
        scale="reduced",
        says="The gain of BN comes with larger learning rates: its best is one that does not train without BN.",
        criterion="The rate of highest median test accuracy with BN (a diverged run counts as 10 %) is one at which no "
        "seed trains without BN (reproduced); it is larger than the best rate without BN (partly).",
        published="93.2 % at 0.1, which diverges without BN (ResNet-110)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rates.grid_figure(fig, frames["runs"])


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    runs = frames["runs"]
    cells = rates.edges(runs, ["norm", "seed"])
    table = rates.shares(runs)
    n = rates.seeds(cells) if set(cells["norm"]) == set(ARMS) else 0
    with_bn = table[table["trained", "batch"] == 1]
    lost, unused = with_bn[with_bn["diverged", "none"] == 1], with_bn[with_bn["trained", "none"] == 0]
    never = table[table["trained", "none"] == 0]
    best = {arm: rates.best(runs[runs["norm"] == arm]) for arm in ARMS}
    return {
        "4-reduced": Evidence(
            measured=f"every seed trains with BN and diverges without at {_listed(lost)}; trains with BN and not "
            f"without at {_listed(unused)}",
            spread=f"grid {number(table.index.min())} to {number(table.index.max())}, {len(table)} rates",
            n=n,
            verdict=judge(n, whole=len(lost) > 0, part=len(unused) > 0),
        ),
        "4-largest-reduced": rates.evidence(cells),
        "2-best-reduced": Evidence(
            measured=f"best at {number(best['batch'])} with BN, at {number(best['none'])} without",
            spread="",
            n=n,
            verdict=judge(n, whole=best["batch"] in never.index, part=best["batch"] > best["none"]),
        ),
    }


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(number(float(str(rate))) for rate in table.index) or "no rate"


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return rates.grid_numbers(frames["runs"])
