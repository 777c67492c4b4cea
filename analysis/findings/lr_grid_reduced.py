"""Which learning rates a network trains at, with BN and without, at a small scale (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, limits
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict, claim, judge
from bnstudy.analysis.frames import ARMS, CHANCE, number
from bnstudy.analysis.stats import Scale

TITLE = "ResNet-20 on 128 images: learning-rate limits with BN and without"
CAPTION = (
    "A small edition of the grid of learning rates: ResNet-20 instead of ResNet-110, 128 images of CIFAR-10 instead of "
    "50,000, 80 epochs instead of 165, without augmentation, tested on 1,000 images. (a) Accuracy on these; a mark a "
    "run, line: mean, on the grid, of those that did not diverge; numbers below the axis: runs that diverged "
    "(mini-batch loss above 1000, or not finite); triangles: stalled (under 30 % on the training images). (b) Training "
    "minus test accuracy of the runs that trained. (c) The update that diverged. (d) The largest rate that trains, a "
    "bar a seed from a rate that does to one that does not; triangle: the largest that was tried trains; white dot: "
    "rates above the bar train again."
)
SWEEP = "lr_grid_reduced"
NEEDS = {"runs": "status in ('completed', 'diverged')"}
SIZE = (9.6, 7.2)
BEST = "best rate with BN over the best one without"
GENERALISES = Need(
    "test accuracy with BN at its best rate", "trained on 128 images the network hardly generalises", above=50
)
SMALL = "Section 3, at a laptop's scale"
CLAIMS = (
    Claim(
        id="4-largest-reduced",
        where=SMALL,
        scale="reduced",
        says="The largest learning rate that trains is an order of magnitude larger with BN.",
        criterion=limits.larger(),
        published="0.1 against 0.0001 are the rates used (ResNet-110)",
    ),
    Claim(
        id="2-best-reduced",
        where="Section 2.1, at a laptop's scale",
        scale="reduced",
        says="The gain of BN comes with larger learning rates: its best is one that does not train without BN.",
        criterion=Criterion(
            (Part(BEST, above=3, scale=Scale.log),),
            needs=(GENERALISES,),
            remark="Each seed's rate of highest test accuracy on the grid; 3 is less than a step of it.",
        ),
        published="93.2 % at 0.1, which diverges without BN (ResNet-110)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    limits.grid_figure(fig, frames["runs"])


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = frames["runs"]
    percent = (100 * runs["final_test_accuracy"]).where(runs["outcome"] != "diverged", CHANCE)
    on_grid = limits.grid(runs.assign(percent=percent))
    best = on_grid.loc[on_grid.groupby(["norm", "seed"])["percent"].idxmax()]
    with_bn = best[best["norm"] == "batch"].set_index("seed")["percent"]
    return {
        "4-largest-reduced": limits.ratios(limits.by_cell(runs, ["norm", "seed"])),
        "2-best-reduced": {
            BEST: criteria.compared(best, "lr", Scale.log, of="batch"),
            GENERALISES.of: criteria.single(with_bn),
        },
    }


@claim(
    id="4-reduced",
    origin="paper",
    where=SMALL,
    scale="reduced",
    says="Without BN larger learning rates cannot be used: training diverges.",
    criterion="There is a rate of the grid at which every seed trains with BN and every seed diverges (mini-batch "
    "loss above 1000) without: reproduced. Undecided where there is none at which every seed without BN diverges "
    "or trains: a control that stalls at a guess's loss is no support.",
    published="0.1 (ResNet-110)",
)
def diverges_at_large_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    runs = frames["runs"]
    cells = limits.by_cell(runs, ["norm", "seed"])
    table = limits.shares(runs)
    n = limits.seeds(cells) if set(cells["norm"]) >= set(ARMS) else 0
    with_bn = table[table["trained", "batch"] == 1]
    lost, unused = with_bn[with_bn["diverged", "none"] == 1], with_bn[with_bn["trained", "none"] == 0]
    known = with_bn[(with_bn["trained", "none"] == 1) | (with_bn["diverged", "none"] == 1)]
    verdict = judge(n, full=len(lost) > 0, partial=False)
    stalled = not len(lost) and (len(unused) > 0 or not len(known))
    return Evidence(
        measured=f"every seed trains with BN and diverges without at {_listed(lost)}; trains with BN and not "
        f"without at {_listed(unused)}",
        spread=f"grid {number(table.index.min())} to {number(table.index.max())}, {len(table)} rates",
        n=n,
        verdict=Verdict.undecided if stalled else verdict,
        reason="where the control does not train it stalls: it never learned, nor diverges" if stalled else "",
    )


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(number(float(str(rate))) for rate in table.index) or "no rate"


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return limits.grid_numbers(frames["runs"])
