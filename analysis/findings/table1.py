"""Without BN the summands of a convolution's gradient agree in sign (Bjorck et al. 2018, section 3.2, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy import effects, figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import ARMS, Spread, arms, by_arm, number, over_seeds

LAYERS = (18, 54, 90)
# The paper's table as recalled, not read in a copy; a and b per summand. Ratios as printed there.
RECALLED = {
    "batch": {"sum_abs": (7.5e-5, 1.9e-5, 6.6e-6), "abs_sum": (3.0e-7, 1.7e-7, 1.6e-7), "ratio": (251.8, 112.8, 40.7)},
    "none": {"sum_abs": (6.3e-5, 2.2e-4, 2.6e-4), "abs_sum": (3.6e-5, 8.4e-5, 1.2e-4), "ratio": (1.7, 2.6, 2.1)},
}
TOLERANCE = 0.35

TITLE = "Do the summands of a kernel's gradient agree in sign?"
CAPTION = (
    "A kernel entry's gradient is a sum over images and positions. a: mean over kernel entries of the sum of "
    "absolute summands; b: of the absolute value of the sum; both divided by the number of summands, |B|·H·W. If all "
    "summands had one sign, a/b would be 1. Median (line) and range over seeds (band), every convolution. Hollow "
    "diamonds: the paper's Table 1 as recalled."
)
SWEEP = "init"
NEEDS = {"conv_gradient_sums": "step == 0 and run_depth == 110"}
SIZE = (9.6, 3.9)
CLAIMS = (
    Claim(
        id="12",
        origin="paper",
        where="Section 3.2, Table 1",
        scale="init",
        says="Without BN the summands of a convolution's gradient nearly share one sign; with BN they cancel.",
        criterion="a/b at layers 18, 54, 90, medians over seeds: with BN each within 35 % of the recalled 252, 113, "
        "41; without BN each between 1 and 3.9 (2.9 plus 35 %). All six: reproduced. With BN at least 10 times that "
        "without at all three layers: partly.",
        published="with BN 252, 113, 41; without BN 1.7, 2.6, 2.1 (recalled)",
    ),
    Claim(
        id="12-layers",
        where="Section 3.2, Table 1",
        scale="init",
        says="This holds at every depth: without BN, a is within a factor of 4 of b.",
        criterion="Share of the 109 convolutions with a median a/b below 4 without BN, and at least 10 times larger "
        "with BN: 0.9 or more reproduces, 0.5 or more does partly.",
        published="three layers are shown",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    sums = frames["conv_gradient_sums"]
    left, right = fig.subplots(1, 2)
    for arm, part in arms(sums).items():
        for quantity, letter, dashes in (("sum_abs", "a", "-"), ("abs_sum", "b", (0, (4, 1.6)))):
            label = f"{letter}, {figures.LABELS[arm]}"
            figures.band(left, over_seeds(part, ["depth"], quantity), "depth", arm, label=label, ls=dashes)
            figures.diamonds(left, LAYERS, RECALLED[arm][quantity], arm)
        figures.band(right, over_seeds(part, ["depth"], "ratio"), "depth", arm)
        figures.diamonds(right, LAYERS, RECALLED[arm]["ratio"], arm)
    right.axhline(1, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
    right.text(2, 1.03, "all summands of one sign", fontsize=7, color=figures.MUTED, va="bottom")
    for ax, letter, title, label in (
        (left, "a", "sums per summand", "a and b: mean over kernel entries"),
        (right, "b", "cancellation a/b", "a/b"),
    ):
        ax.set_ylabel(label)
        figures.panel(ax, letter, title)
        figures.stages(ax)
    left.set_yscale("log")
    figures.plain_log(right)
    right.set_ylim(bottom=0.8)
    figures.headroom(left, 0.16)
    for ax, columns in ((left, 3), (right, 1)):
        figures.diamond_entry(ax, "Table 1, as recalled")
        ax.legend(loc="upper right", ncols=columns)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    sums = frames["conv_gradient_sums"]
    at = {arm: [by_arm(sums[sums["depth"] == layer], "ratio")[arm] for layer in LAYERS] for arm in ARMS}
    n = min(s.n for arm in ARMS for s in at[arm])
    cancels = [
        abs(s.median / seen - 1) <= TOLERANCE for s, seen in zip(at["batch"], RECALLED["batch"]["ratio"], strict=True)
    ]
    agrees = [1 <= s.median <= 2.9 * (1 + TOLERANCE) for s in at["none"]]
    apart = all(b.median >= 10 * u.median for b, u in zip(at["batch"], at["none"], strict=True))
    three = Evidence(
        measured=f"with BN {_list(at['batch'])}; without BN {_list(at['none'])}",
        spread=f"with BN {_ranges(at['batch'])}; without BN {_ranges(at['none'])}",
        n=n,
        verdict=judge(n, whole=all(cancels) and all(agrees), part=apart),
        arms=tuple(
            effects.arms(sums[sums["depth"] == layer], "ratio", f"a/b at layer {layer}", ratio=True) for layer in LAYERS
        ),
    )
    medians = sums.groupby(["norm", "depth"])["ratio"].median().unstack("norm").reindex(columns=list(ARMS)).dropna()
    holds = (medians["none"] < 4) & (medians["batch"] >= 10 * medians["none"])
    share = float(holds.mean()) if len(holds) else float("nan")
    every = Evidence(
        measured=f"{100 * share:.0f} % of the convolutions; a/b without BN at most {number(medians['none'].max())}",
        spread=f"medians over layers: {number(medians['none'].min())} to {number(medians['none'].max())} without BN, "
        f"{number(medians['batch'].min())} to {number(medians['batch'].max())} with BN",
        n=n,
        verdict=judge(n, whole=share >= 0.9, part=share >= 0.5),
    )
    return {"12": three, "12-layers": every}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    sums = frames["conv_gradient_sums"]
    rows = []
    for quantity, label in (("sum_abs", "a"), ("abs_sum", "b"), ("ratio", "a/b")):
        for position, layer in enumerate(LAYERS):
            ours = by_arm(sums[sums["depth"] == layer], quantity)
            seen = [number(RECALLED[arm][quantity][position]) for arm in ARMS]
            rows.append(Comparison(f"{label}, layer {layer}", seen[0], seen[1], str(ours["batch"]), str(ours["none"])))
    return rows


def _list(spreads: list[Spread]) -> str:
    return ", ".join(number(s.median) for s in spreads)


def _ranges(spreads: list[Spread]) -> str:
    return ", ".join(s.range for s in spreads)
