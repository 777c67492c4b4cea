"""What BN in one place alone does to the untrained network (Bjorck et al. 2018, section 3.1, appendix E)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy import figures
from bnstudy.effects import Arms
from bnstudy.figures import PLACES
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, Spread, number, over_seeds, placed, spread

END = ("before_pooling", "after_classifier")
STAGES = ("stage1.*", "stage2.*", "stage3.*")
FIRST, LAST = 7, 103  # outputs of the blocks that contain the paper's layers 6 and 102

TITLE = "BN in one place alone: the untrained network"
CAPTION = (
    "On one mini-batch of 128 images. (a) Natural logarithm of the standard deviation of every channel of the block "
    "outputs, averaged over channels. (b) Standard deviation of the entries of each convolution's gradient. Median "
    "over seeds; the bands of BN everywhere and nowhere are their range. The curves of one "
    "BN at the end lie in (a) under that of none: what comes before it is the same network. (c) Part of the positive "
    "gradient at the classifier's outputs that lies in the column with most of it; one dot a seed, bar: median; grey: "
    "the bound of claim 11 for BN."
)
SWEEP = "placement_init"
NEEDS = {
    "activation_moments": "step == 0 and site == 'activation' and block_output and run_depth == 110",
    "gradient_tails": "step == 0 and quantity == 'std' and depth < 110 and run_depth == 110",
    "logit_gradient": "step == 0 and quantity == 'top_column_share' and depth == 110",
}
SIZE = (11.4, 4.6)
WHERE = "Section 3.1, appendix E"
CLAIMS = (
    Claim(
        id="10-init-output",
        where=WHERE,
        scale="init",
        says="One BN at the end cures the gradient at the classifier's outputs: it no longer is one class column.",
        criterion="Top-column share of the positive gradient, median over seeds at most 0.6, and below that without BN "
        "in every pair of one seed: with BN before the pooling and with BN after the classifier (reproduced), with one "
        "of the two (partly).",
        published="argued, not measured",
    ),
    Claim(
        id="10-init-activations",
        where=WHERE,
        scale="init",
        says="It does not cure the activations: they grow with depth as without BN.",
        criterion="ln std averaged over channels, rise from layer 6 to 102, median over seeds at least 3 (claim 9's "
        "bound): with BN before the pooling and with BN after the classifier (reproduced), with one (partly). Both "
        "networks are, up to their BN, the one without.",
        published="argued, not measured",
    ),
    Claim(
        id="10-init-gradients",
        where=WHERE,
        scale="init",
        says="It cures the size of the weights' gradients throughout the network.",
        criterion="Standard deviation of a convolution's gradient over that with BN everywhere, median over the 109 "
        "convolutions, then over seeds, between 0.1 and 10: with BN before the pooling and with BN after the "
        "classifier (reproduced), with one (partly).",
        published="argued, not measured",
    ),
    Claim(
        id="10-init-stages",
        where=f"{WHERE}, carried on",
        scale="init",
        says="Of single stages only the last, normalised, leaves the network's end as BN everywhere does.",
        criterion="ln std at layer 102, medians over seeds, above that with BN everywhere: by at most 0.25 with BN in "
        "stage 3 alone, by at least 1 in stage 1 or 2 alone. All three: reproduced; the first: partly.",
        published="not in the paper",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    moments, sizes, shares = _moments(frames), _sizes(frames), placed(frames["logit_gradient"])
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    for ax, rows, value in ((left, moments, "ln_std"), (middle, sizes, "value")):
        for place, (_, colour, dashes) in PLACES.items():
            part = over_seeds(rows[rows["place"] == place], ["depth"], value)
            if place in ("*", "none"):
                ax.fill_between(part["depth"], part["low"], part["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(part["depth"], part["median"], color=colour, ls=dashes, lw=1.4)
        figures.stages(ax)
    left.set_ylabel("ln standard deviation, averaged over channels")
    hidden = "\nand ".join(PLACES[place][0] for place in END)
    left.text(0.03, 0.97, f"{hidden}:\nas nowhere", transform=left.transAxes, va="top", fontsize=7, color=figures.MUTED)
    figures.panel(left, "a", "activations by depth")
    middle.set_yscale("log")
    middle.set_ylabel("standard deviation of the gradient")
    figures.panel(middle, "b", "gradients by depth")
    right.axhline(0.6, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for x, (place, (_, colour, _)) in enumerate(PLACES.items()):
        values = shares.loc[shares["place"] == place, "value"]
        offsets = [0.07 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        right.plot([x + o for o in offsets], values, "o", color=colour, ms=3.8, mew=0, alpha=0.85)
        right.plot([x - 0.25, x + 0.25], [values.median()] * 2, color=colour, lw=2)
    labels = [label for label, _, _ in PLACES.values()]
    right.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    right.set_ylim(0, 1.04)
    right.set_ylabel("top-column share of positive mass")
    right.grid(False, axis="x")
    figures.panel(right, "c", "gradient at the outputs")
    handles = [Line2D([], [], color=c, ls=dashes, lw=1.4, label=label) for label, c, dashes in PLACES.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="BN")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    share = _by_seed(placed(frames["logit_gradient"]), "value")
    rise, level = _rises(frames), _levels(frames)
    size = _relative_sizes(frames)
    spread_out = [
        spread(share[place]).median <= 0.6 and bool((share[place] < share["none"])[_both(share, place, "none")].all())
        for place in END
    ]
    grows = [spread(rise[place]).median >= 3 for place in END]
    cured = [0.1 <= spread(size[place]).median <= 10 for place in END]
    above = {place: spread(level[place]).median - spread(level["*"]).median for place in STAGES}
    kept = above["stage3.*"] <= 0.25
    return {
        "10-init-output": replace(
            _evidence(share, (*END, "none"), whole=all(spread_out), part=any(spread_out)),
            arms=_arms(share, "top-column share"),
        ),
        "10-init-activations": replace(
            _evidence(rise, (*END, "none"), whole=all(grows), part=any(grows)), arms=_arms(rise, "rise of ln std")
        ),
        "10-init-gradients": replace(
            _evidence(size, (*END, "none"), whole=all(cured), part=any(cured)),
            arms=_arms(size, "gradient's std over that of BN everywhere", ratio=True),
        ),
        "10-init-stages": _evidence(
            level, (*STAGES, "*"), whole=kept and min(above["stage1.*"], above["stage2.*"]) >= 1, part=kept
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    lines = []
    for label, wide in (
        ("top-column share", _by_seed(placed(frames["logit_gradient"]), "value")),
        ("rise of ln std, layers 6 to 102", _rises(frames)),
        ("ln std, layer 102", _levels(frames)),
        ("gradient's std over that of BN everywhere", _relative_sizes(frames)),
    ):
        for place, (name, _, _) in PLACES.items():
            ours = (DASH, str(spread(wide[place]))) if place == "none" else (str(spread(wide[place])), DASH)
            lines.append(Comparison(f"{label}, BN {name}", "", "", *ours))
    return lines


def _moments(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run and block: ln std averaged over channels; channels that are constant are left out."""
    rows = placed(frames["activation_moments"])
    with np.errstate(divide="ignore"):
        logs = 0.5 * np.log(rows["variance"])
    rows = rows.assign(ln_std=logs.where(np.isfinite(logs)))
    return pd.DataFrame(rows.groupby(["place", "seed", "depth"], as_index=False)["ln_std"].mean())


def _sizes(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return placed(frames["gradient_tails"])


def _by_seed(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row a seed, one column a place."""
    return rows.pivot(index="seed", columns="place", values=value).reindex(columns=list(PLACES))


def _levels(frames: Mapping[str, pd.DataFrame], depth: int = LAST) -> pd.DataFrame:
    moments = _moments(frames)
    return _by_seed(moments[moments["depth"] == depth], "ln_std")


def _rises(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return _levels(frames) - _levels(frames, FIRST)


def _relative_sizes(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of each seed the median over convolutions of the gradient's size over that with BN everywhere."""
    wide = _sizes(frames).pivot(index=["seed", "depth"], columns="place", values="value").reindex(columns=list(PLACES))
    return pd.DataFrame(wide.div(wide["*"], axis=0).groupby("seed").median())


def _both(wide: pd.DataFrame, one: str, other: str) -> pd.Series[bool]:
    return wide[one].notna() & wide[other].notna()


def _arms(wide: pd.DataFrame, quantity: str, *, ratio: bool = False) -> tuple[Arms, ...]:
    """One BN at the end, in either place, against none."""
    without = tuple(wide["none"].dropna())
    return tuple(
        Arms(f"{quantity}, BN {PLACES[place][0]}", tuple(wide[place].dropna()), without, ratio) for place in END
    )


def _evidence(wide: pd.DataFrame, places: Iterable[str], *, whole: bool, part: bool) -> Evidence:
    of: dict[str, Spread] = {place: spread(wide[place]) for place in places}
    n = min(each.n for each in of.values())
    return Evidence(
        measured=", ".join(f"{number(each.median)} with BN {PLACES[place][0]}" for place, each in of.items()),
        spread=", ".join(each.range for each in of.values()),
        n=n,
        verdict=judge(n, whole=whole, part=part),
    )
