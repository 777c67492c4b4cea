"""What BN learns on mini-batches of one image: behind dense layers, and behind convolutions."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, HoldsFor, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import CHANCE, DASH, accuracies, spread

DENSE, CONVOLUTIONS = "norm3,norm4", "norm1,norm2"
PLACES = {DENSE: ("behind the dense layers", "-", "o"), CONVOLUTIONS: ("behind the convolutions", "--", "s")}
BEFORE = 4  # weight layers before the last norm: all but the classifier
COLOUR = figures.COLOURS["batch"]
NUM_IMAGES = 2000
ZERO = Part("share of the layers before a norm whose gradient is exactly 0, BN behind the dense layers", above=0.99,
            holds_for=HoldsFor.every)  # fmt: skip
LEARNS = Part("test accuracy with BN behind the convolutions alone", below=30, unit="%")

TITLE = "BN on mini-batches of one image"
CAPTION = (
    "LeNet, one pass over 2,000 images of Fashion-MNIST one by one, learning rate 0.1; BN behind the two dense layers "
    "alone (each channel has one value) or behind the two convolutions alone (each channel has the pixels of the "
    "image). (a) Norm of the gradient of each layer's weights on one image before training: geometric mean over seeds, "
    "every seed a mark; exact zeros stand on the axis. (b) Test accuracy afterwards, with running statistics: every "
    "seed, mean and 95 % interval; dashed: chance."
)
SWEEP = "textbook_batch_of_one"
NEEDS = {"runs": "status in ('completed', 'diverged')", "gradient_norms": None}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="textbook-batch-of-one",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization: with mini-batches of one nothing could be learned",
        scale="textbook",
        says="On mini-batches of one image BN learns nothing.",
        criterion=Criterion(
            (ZERO, LEARNS),
            partial=(ZERO,),
            remark="Before training and after it. If convolutions learn, the claim holds for dense layers alone.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    left, right = fig.subplots(1, 2, width_ratios=(3, 2))
    _gradients(left, frames["gradient_norms"].query("step == 0"))
    figures.panel(left, "a", "gradient on one image, before training")
    runs = accuracies(frames["runs"])
    right.axhline(CHANCE, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    for x, where in enumerate(PLACES):
        values = runs.loc[runs["norm_where"] == where, "test"]
        figures.seeds(right, x, values, "batch", scale=stats.Scale.plain)
    right.set_xticks(range(len(PLACES)), [label.replace(" the ", "\nthe ") for label, *_ in PLACES.values()])
    right.set_xlim(-0.6, len(PLACES) - 0.4)
    right.set_ylim(bottom=0)
    right.grid(False, axis="x")
    right.set_ylabel("test accuracy (%)")
    figures.panel(right, "b", "after 2,000 images")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    norms, runs = frames["gradient_norms"], accuracies(frames["runs"])
    before = norms[(norms["norm_where"] == DENSE) & (norms["depth"] <= BEFORE)]
    seen = runs[(runs["norm_where"] == CONVOLUTIONS) & (runs["num_train"] >= NUM_IMAGES)]
    zero = before.assign(zero=(before["gradient"] == 0).astype(float)).groupby("seed")["zero"].mean()
    values = {ZERO.key: zero, LEARNS.key: seen.set_index("seed")["test"]}
    return {"textbook-batch-of-one": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs, norms = accuracies(frames["runs"]), frames["gradient_norms"]
    lines = []
    for where, (label, *_) in PLACES.items():
        values = runs.loc[runs["norm_where"] == where, "test"]
        lines.append(Comparison(f"test accuracy (%), BN {label}", DASH, DASH, str(spread(values)), DASH))
        for layer, part in norms[norms["norm_where"] == where].groupby("layer"):
            name = f"gradient of {layer} on one image, BN {label}"
            lines.append(Comparison(name, DASH, DASH, str(spread(part["gradient"])), DASH))
    return lines


def _gradients(ax: Axes, rows: pd.DataFrame) -> None:
    layers = rows.drop_duplicates("depth").sort_values("depth", kind="stable")["layer"].tolist()
    floor = rows.loc[rows["gradient"] > 0, "gradient"].min() / 30  # where zeros stand on a logarithmic axis
    for shift, (where, (label, line, marker)) in zip((-0.1, 0.1), PLACES.items(), strict=True):
        part = rows[rows["norm_where"] == where]
        shown = part.assign(gradient=part["gradient"].clip(lower=floor))
        means = stats.over_seeds(shown, ["depth"], "gradient", stats.Scale.log)
        ax.plot(means["depth"] + shift, means["mean"], color=COLOUR, ls=line, lw=1.4)
        face = COLOUR if marker == "o" else "white"
        ax.plot(shown["depth"] + shift, shown["gradient"], marker, color=COLOUR, mfc=face, ms=4, ls="", label=label)
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor / 1.6)
    powers = [tick for tick in ax.get_yticks() if 3 * floor < tick < ax.get_ylim()[1]]
    ax.set_yticks([floor, *powers], ["0", *(f"{tick:g}" for tick in powers)])
    ax.minorticks_off()
    ax.set_xticks(range(1, len(layers) + 1), layers)
    ax.set_xlabel("layer")
    ax.set_ylabel("norm of the gradient")
    ax.legend(loc="upper left", title="BN")
