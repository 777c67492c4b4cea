"""Without BN the loss gradient in the logits favours one class, whatever the input (Bjorck et al. 2018, Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import ARMS, arms, by_arm
from bnstudy.analysis.stats import Scale

ONE_COLUMN = Part("top-column share of the positive mass without BN", above=0.75)
SPREAD_OUT = Part("top-column share of the positive mass with BN", below=0.6)
MORE = Part("by how much that share is larger without BN", above=0)

TITLE = "Gradient of the loss in the classifier's outputs at initialisation"
CAPTION = (
    "(a, b) One entry for each image of the mini-batch and class, for the first seed of each arm; images sorted by "
    "label, so that the true classes (negative entries) form a staircase; where the softmax is certain of the right "
    "class nothing is left; colours end at ±1/|B|. (c) One dot a seed, bar: mean with 95 % interval. Top-column share: "
    "part of all positive entries that lies in the column with most of them. Pale bars beside them: the range that "
    "this project's simulation of the published set-up gave before; dashed: the bounds of the share (above the one, "
    "below the other), taken from it."
)
SWEEP = "init"
NEEDS = {"logit_gradient": "step == 0 and depth == 110"}
SIZE = (9.6, 4.5)
CLAIMS = (
    Claim(
        id="11",
        origin="paper",
        where="Section 3.1, Figure 6",
        scale="init",
        says="Without BN the output layer's gradient is one class column for nearly all images; with BN it is "
        "spread out.",
        criterion=Criterion(
            (ONE_COLUMN, SPREAD_OUT, MORE),
            partial=(ONE_COLUMN, MORE),
            remark="Means of the shares themselves and not of their logits, as some are 1. Paired by seed.",
        ),
        calibrated="a simulation of the published set-up, which gave the bounds",
        published="heat maps: one saturated column without BN, spread out with BN; simulated shares 0.75 or more "
        "and about 0.5",
    ),
)
SCALARS = (
    ("top_column_share", "top-column share\nof positive mass"),
    ("mean_max_softmax", "mean of the\nlargest softmax"),
    ("max_abs_column_sum", "largest\n|column sum|"),
)
# low and high ends of what the published set-up gives at initialisation
EXPECTED = {
    "top_column_share": {"batch": (0.50, 0.55), "none": (0.75, 1.00)},
    "mean_max_softmax": {"batch": (0.50, 0.50), "none": (0.84, 1.00)},
    "max_abs_column_sum": {"batch": (0.37, 0.48), "none": (0.66, 0.98)},
}


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = frames["logit_gradient"]
    left, middle, right = fig.subplots(1, 3, width_ratios=(1, 1, 1.45))
    images = None
    for ax, arm, letter in ((left, "none", "a"), (middle, "batch", "b")):
        entries, seed = _first_seed(rows, arm)
        figures.panel(ax, letter, figures.LABELS[arm] + (f" (seed {seed})" if seed is not None else ", no run"))
        ax.grid(False)
        if entries is None:
            continue
        limit = 1 / len(entries)
        images = ax.imshow(
            entries, aspect="auto", cmap=figures.SIGNED_MAP, vmin=-limit, vmax=limit, interpolation="nearest"
        )
        ax.set_xticks(range(entries.shape[1]))
        ax.set_xlabel("class")
        ax.set_ylabel("image of the mini-batch, by label")
    if images is not None:
        bar = fig.colorbar(images, ax=[left, middle], location="bottom", shrink=0.7, aspect=36, pad=0.02)
        bar.set_label("gradient of the mean loss in the class's output")
        bar.outline.set_visible(False)

    for position, (quantity, _) in enumerate(SCALARS):
        part = rows[rows["quantity"] == quantity]
        for shift, (arm, of) in figures.beside(part, 0.2):
            figures.seeds(right, position + shift, of["value"], arm, spacing=0.035, scale=Scale.plain)
            if arm not in EXPECTED[quantity]:
                continue
            low, high = EXPECTED[quantity][arm]
            right.plot([position + shift + 0.15] * 2, [low, high], color=figures.COLOURS[arm], lw=3.5, alpha=0.35,
                       solid_capstyle="butt")  # fmt: skip
    for arm in arms(rows):
        right.plot([], [], "o", color=figures.COLOURS[arm], ms=4, mew=0, label=figures.LABELS[arm])
    for bound, arm in ((ONE_COLUMN.above, "none"), (SPREAD_OUT.below, "batch")):
        right.plot([-0.45, 0.45], [bound] * 2, color=figures.COLOURS[arm], lw=0.9, ls=figures.DASHED, zorder=1)
    right.plot([], [], color=figures.MUTED, lw=3.5, alpha=0.5, label="simulated")
    right.plot([], [], color=figures.MUTED, lw=0.9, ls=figures.DASHED, label="bounds")
    right.set_xticks(range(len(SCALARS)), [label for _, label in SCALARS])
    right.set_xlim(-0.5, len(SCALARS) - 0.5)
    right.set_ylim(0, max(1.32, 1.1 * right.dataLim.y1))
    right.set_yticks(np.arange(0, 1.01, 0.2))
    right.grid(False, axis="x")
    right.set_ylabel("fraction")
    right.legend(loc="upper right", ncols=4, borderaxespad=0, handlelength=1.2, columnspacing=1)
    figures.panel(right, "c", "every seed")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    shares = frames["logit_gradient"].query("quantity == 'top_column_share'")
    of = {arm: criteria.single(shares[shares["norm"] == arm].set_index("seed")["value"]) for arm in ARMS}
    more = criteria.compared(shares, "value")
    return {"11": {ONE_COLUMN.key: of["none"], SPREAD_OUT.key: of["batch"], MORE.key: more}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = frames["logit_gradient"]
    out = []
    for quantity, label in SCALARS:
        ours = by_arm(rows[rows["quantity"] == quantity], "value")
        paper = {arm: _ends(*EXPECTED[quantity][arm]) for arm in ARMS}
        out.append(
            Comparison(label.replace("\n", " "), paper["batch"], paper["none"], str(ours["batch"]), str(ours["none"]))
        )
    return out


def _ends(low: float, high: float) -> str:
    text = f"about {low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return f"{text} (simulated)"  # the paper shows heat maps and no such number


def _first_seed(rows: pd.DataFrame, arm: str) -> tuple[np.ndarray | None, int | None]:
    """Entries (image, class) of the arm's first seed, images sorted by label."""
    entries = rows[(rows["norm"] == arm) & (rows["quantity"] == "entry")]
    if entries.empty:
        return None, None
    seed = int(entries["seed"].min())
    wide = entries[entries["seed"] == seed].pivot(index=["label", "example"], columns="column", values="value")
    return wide.sort_index().to_numpy(), seed
