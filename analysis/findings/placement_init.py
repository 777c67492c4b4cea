"""What BN in one place alone does to the untrained network (Bjorck et al. 2018, section 3.1, appendix E)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.figures import PLACES
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, placed, spread
from bnstudy.analysis.stats import Scale

END = ("before_pooling", "after_classifier")
STAGES = ("stage1.*", "stage2.*", "stage3.*")
_END = {place: f"BN {PLACES[place][0]}" for place in END}
SHARES = {place: Part("top-column share of the positive gradient", below=0.6, at=at) for place, at in _END.items()}
LESS = {place: Part("that share without BN less", above=0, at=at) for place, at in _END.items()}
RISES = {place: Part("rise of ln std from layer 6 to 102", above=3, at=at) for place, at in _END.items()}
SIZES = {
    place: Part("gradient's standard deviation over that with BN everywhere, median over the convolutions", above=0.1,
                below=10, scale=Scale.log, at=at)
    for place, at in _END.items()
}  # fmt: skip
KEPT = Part("ln std at layer 102 with BN in stage 3 less that with BN everywhere", below=0.25)
LEFT = {
    stage: Part("ln std at layer 102 less that with BN everywhere", above=1, at=f"BN {PLACES[stage][0]}")
    for stage in STAGES[:2]
}
FIRST, LAST = 7, 103  # outputs of the blocks that contain the paper's layers 6 and 102

TITLE = "BN in one place alone: the untrained network"
CAPTION = (
    "On one mini-batch of 128 images. (a) Natural logarithm of the standard deviation of every channel of the block "
    "outputs, averaged over channels. (b) Standard deviation of the entries of each convolution's gradient. Mean "
    "(b: geometric) over seeds; the bands of BN everywhere and nowhere are 95 % intervals. The curves of one "
    "BN at the end lie in (a) under that of none: what comes before it is the same network. (c) Part of the positive "
    "gradient at the classifier's outputs that lies in the column with most of it; one dot a seed, bar: mean with 95 % "
    "interval; grey: the bound of claim 11 for BN."
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
        criterion=Criterion((*SHARES.values(), *LESS.values()), partial=3),
        published="argued, not measured",
    ),
    Claim(
        id="10-init-activations",
        calibrated="true by construction: before its BN the network is the one without",
        where=WHERE,
        scale="init",
        says="It does not cure the activations: they grow with depth as without BN.",
        criterion=Criterion(
            tuple(RISES.values()),
            partial=1,
            remark="Both networks are, up to their BN, the one without: true by construction where claim 9 holds.",
        ),
        published="argued, not measured",
    ),
    Claim(
        id="10-init-gradients",
        where=WHERE,
        scale="init",
        says="It cures the size of the weights' gradients throughout the network.",
        criterion=Criterion(tuple(SIZES.values()), partial=1),
        published="argued, not measured",
    ),
    Claim(
        id="10-init-stages",
        where=f"{WHERE}, carried on",
        scale="init",
        says="Of single stages only the last, normalised, leaves the network's end as BN everywhere does.",
        criterion=Criterion(
            tuple(LEFT.values()),
            partial=1,
            remark="That the last stage leaves it so is true by construction: layer 102 sees normalised sums alone.",
        ),
        published="not in the paper",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    moments, sizes, shares = _moments(frames), _sizes(frames), placed(frames["logit_gradient"])
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    for ax, rows, value, scale in ((left, moments, "ln_std", Scale.plain), (middle, sizes, "value", Scale.log)):
        for place, (_, colour, dashes) in PLACES.items():
            part = stats.over_seeds(rows[rows["place"] == place], ["depth"], value, scale)
            if place in ("*", "none"):
                ax.fill_between(part["depth"], part["low"], part["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(part["depth"], part["mean"], color=colour, ls=dashes, lw=1.4)
        figures.stages(ax)
    left.set_ylabel("ln standard deviation, averaged over channels")
    hidden = "\nand ".join(PLACES[place][0] for place in END)
    left.text(0.03, 0.97, f"{hidden}: as nowhere", transform=left.transAxes, va="top", fontsize=7, color=figures.MUTED)
    figures.panel(left, "a", "activations by depth")
    middle.set_yscale("log")
    middle.set_ylabel("standard deviation of the gradient")
    figures.panel(middle, "b", "gradients by depth")
    right.axhline(0.6, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for x, (place, (_, colour, _)) in enumerate(PLACES.items()):
        values = shares.loc[shares["place"] == place, "value"]
        figures.seeds(right, x, values, "batch", spacing=0.07, scale=Scale.plain, colour=colour)
    labels = [label for label, _, _ in PLACES.values()]
    right.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    right.set_ylim(0, max(1.04, 1.02 * right.dataLim.y1))
    right.set_yticks(np.arange(0, 1.01, 0.2))
    right.set_ylabel("top-column share of positive mass")
    right.grid(False, axis="x")
    figures.panel(right, "c", "gradient at the outputs")
    handles = [Line2D([], [], color=c, ls=dashes, lw=1.4, label=label) for label, c, dashes in PLACES.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="BN")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    share = _by_seed(placed(frames["logit_gradient"]), "value")
    rise, level, size = _rises(frames), _levels(frames), _relative_sizes(frames)
    values = {
        "10-init-output": {
            **{part.key: share[place] for place, part in SHARES.items()},
            **{part.key: share["none"] - share[place] for place, part in LESS.items()},
        },
        "10-init-activations": {part.key: rise[place] for place, part in RISES.items()},
        "10-init-gradients": {part.key: size[place] for place, part in SIZES.items()},
        "10-init-stages": {
            KEPT.key: level["stage3.*"] - level["*"],
            **{part.key: level[stage] - level["*"] for stage, part in LEFT.items()},
        },
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


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
    """One row per run and block: ln std averaged over channels; channels that are constant are left out."""
    rows = placed(frames["activation_moments"])
    with np.errstate(divide="ignore"):
        logs = 0.5 * np.log(rows["variance"])
    rows = rows.assign(ln_std=logs.where(np.isfinite(logs)))
    return pd.DataFrame(rows.groupby(["place", "seed", "depth"], as_index=False)["ln_std"].mean())


def _sizes(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return placed(frames["gradient_tails"])


def _by_seed(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row per seed, one column a place."""
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
