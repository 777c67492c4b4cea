"""BN-LeNet on Fashion-MNIST as Dive into Deep Learning prints it: the layer written out, and the library's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import DASH, Spread, number, over_seeds, spread

LAYERS = {"batch_scratch": "written out", "batch": "torch's"}
LOOK = {  # colour, line, marker's face
    "batch": (figures.COLOURS["batch"], "-", figures.COLOURS["batch"]),
    "batch_scratch": (figures.OTHER, "--", "white"),
}
# What the chapter prints (Gluon edition): after ten epochs, of the layer written out and of the library's.
PRINTED = {
    "train_loss": {"batch_scratch": 0.249, "batch": 0.250},
    "train_accuracy": {"batch_scratch": 0.908, "batch": 0.908},
    "test_accuracy": {"batch_scratch": 0.878, "batch": 0.796},
}
PRINTED_SPEED = {"batch_scratch": 23989.7, "batch": 51200.8}  # examples/s, on a GPU
GAMMA = (1.9046061, 1.9237632, 1.9899812, 1.7049013, 1.3199338, 1.8685762)
BETA = (0.85237694, 0.14804973, 0.23010394, 0.3837481, -1.1014261, -1.9664934)
NAMES = {"train_loss": "training loss", "train_accuracy": "training accuracy", "test_accuracy": "test accuracy"}
EPOCHS = 10

TITLE = "BN-LeNet on Fashion-MNIST: beside what the textbook prints"
CAPTION = (
    "Learning rate 1, ten epochs (preset quick: three), batches of 256, max pooling, sigmoid. Loss and training "
    "accuracy are means over an epoch while the weights change; test accuracy is that after it, with running "
    "statistics. (a, b) Median (line) and range over seeds (band) after each epoch. (c) Scale and shift of the six "
    "channels of the first BN layer after training, all seeds. Hollow diamonds: published (Gluon edition, one run "
    "each, on a GPU)."
)
SWEEP = "textbook_lenet"
NEEDS = {
    "epochs": None,
    "throughput": None,
    "norm_parameters": "site == 'norm1' and quantity in ('weight', 'bias')",
}
SIZE = (10.8, 4.1)
WHERE = "Dive into Deep Learning, Batch Normalization, 7.5.4 and 7.5.5"
CLAIMS = (
    Claim(
        id="textbook-lenet-1",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The layer written out reaches training loss 0.249 and training accuracy 0.908 in ten epochs.",
        criterion="Medians over seeds within 0.02 of the loss and 0.01 of the accuracy: both: reproduced, one: partly.",
        published="0.249, 0.908",
    ),
    Claim(
        id="textbook-lenet-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The library's layer trains as the one written out does.",
        criterion="Median training losses, and accuracies, of the two differ by no more than the larger of their "
        "ranges over seeds: both reproduce, one does partly.",
        published="0.249 and 0.250; 0.908 and 0.908",
    ),
    Claim(
        id="textbook-lenet-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="After ten epochs the test accuracy of the layer written out is 0.878, of the library's 0.796.",
        criterion="Each lies within the range over seeds of its layer: both reproduce, one does partly. (Two such "
        "numbers from one network are possible only if single runs scatter.)",
        published="0.878; 0.796",
    ),
    Claim(
        id="textbook-lenet-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The library's layer trains faster than the one written out.",
        criterion="Images per second in training, medians over seeds and epochs: at least 1.5 times as many "
        "reproduces, more than 1.1 times does partly. Here on a CPU, the library's fused by this project's kernels.",
        published="51,201 and 23,990 examples/s on a GPU: 2.1 times",
    ),
    Claim(
        id="textbook-lenet-5",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Every scale gamma of the first BN layer grows above 1; the shifts beta take both signs.",
        criterion="With the layer written out, after ten epochs: in every seed all six gammas are above 1 and betas of "
        "both signs occur (reproduced); in at least half of the seeds (partly).",
        published="gamma 1.32 to 1.99, beta -1.97 to 0.85",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    left, middle, right = fig.subplots(1, 3)
    _curves(left, frames["epochs"], {"train_loss": "-"}, 1)
    left.set_ylabel("loss")
    figures.panel(left, "a", "training loss")
    _curves(middle, frames["epochs"], {"train_accuracy": "-", "test_accuracy": ":"}, 100)
    middle.set_ylabel("accuracy (%)")
    figures.panel(middle, "b", "training and test accuracy")
    _parameters(right, frames["norm_parameters"])
    figures.panel(right, "c", "first BN layer, learned")
    handles = [
        figures.entry(LAYERS[layer], "o", filled=face != "white", colour=colour, ls=line)
        for layer, (colour, line, face) in LOOK.items()
    ]
    handles += [figures.entry("test accuracy (b)", ls=":"), figures.entry("published", "D", filled=False)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=3)


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    n, last = _seeds(frames), _last(frames["epochs"])
    own = {key: last["batch_scratch"][key] for key in PRINTED}
    near = [
        abs(own["train_loss"].median - PRINTED["train_loss"]["batch_scratch"]) <= 0.02,
        abs(own["train_accuracy"].median - PRINTED["train_accuracy"]["batch_scratch"]) <= 0.01,
    ]
    alike = [_alike(last["batch_scratch"][key], last["batch"][key]) for key in ("train_loss", "train_accuracy")]
    within = [
        last[layer]["test_accuracy"].low <= value <= last[layer]["test_accuracy"].high
        for layer, value in PRINTED["test_accuracy"].items()
    ]
    speed = {layer: spread(_of(frames["throughput"], layer)["examples_per_sec"]) for layer in LAYERS}
    ratio = speed["batch"].median / speed["batch_scratch"].median
    grown = _grown(frames["norm_parameters"])

    def told(*keys: str) -> str:
        return "; ".join(
            f"{NAMES[key]} " + ", ".join(f"{last[layer][key].median:.3f} {LAYERS[layer]}" for layer in LAYERS)
            for key in keys
        )

    def ranges(*keys: str) -> str:
        return "; ".join(", ".join(_range(last[layer][key]) for layer in LAYERS) for key in keys)

    fit = ("train_loss", "train_accuracy")
    return {
        "textbook-lenet-1": Evidence(
            ", ".join(f"{NAMES[key]} {own[key].median:.3f}" for key in fit),
            ", ".join(_range(own[key]) for key in fit),
            n,
            judge(n, whole=all(near), part=any(near)),
        ),
        "textbook-lenet-2": Evidence(told(*fit), ranges(*fit), n, judge(n, whole=all(alike), part=any(alike))),
        "textbook-lenet-3": Evidence(
            told("test_accuracy"), ranges("test_accuracy"), n, judge(n, whole=all(within), part=any(within))
        ),
        "textbook-lenet-4": Evidence(
            f"{number(ratio)} times: {speed['batch'].median:,.0f} and {speed['batch_scratch'].median:,.0f} images/s",
            f"{number(speed['batch'].low)} to {number(speed['batch'].high)}; "
            f"{number(speed['batch_scratch'].low)} to {number(speed['batch_scratch'].high)}",
            n,
            judge(n, whole=ratio >= 1.5, part=ratio > 1.1),
        ),
        "textbook-lenet-5": Evidence(
            f"in {int(grown.sum())} of {len(grown)} seeds",
            _extremes(frames["norm_parameters"]),
            n,
            judge(n, whole=bool(len(grown)) and bool(grown.all()), part=bool(len(grown)) and grown.mean() >= 0.5),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    last = _last(frames["epochs"])
    lines = [
        Comparison(f"{NAMES[key]}, {LAYERS[layer]}", f"{printed[layer]:.3f}", DASH, _cell(last[layer][key]), DASH)
        for key, printed in PRINTED.items()
        for layer in LAYERS
    ]
    for layer in LAYERS:
        speed = spread(_of(frames["throughput"], layer)["examples_per_sec"])
        lines.append(
            Comparison(
                f"images/s in training, {LAYERS[layer]}",
                f"{PRINTED_SPEED[layer]:,.0f}",
                DASH,
                f"{speed.median:,.0f} [{speed.low:,.0f} to {speed.high:,.0f}]" if speed.n else DASH,
                DASH,
            )
        )
    rows = _of(frames["norm_parameters"], "batch_scratch")
    for name, quantity, printed in (("gamma", "weight", GAMMA), ("beta", "bias", BETA)):
        first = rows[(rows["quantity"] == quantity) & (rows["seed"] == rows["seed"].min())].sort_values("channel")
        ours = ", ".join(f"{value:.3f}" for value in first["value"]) or DASH
        theirs = ", ".join(f"{value:.3f}" for value in printed)
        lines.append(Comparison(f"{name} of the first BN layer, written out, first seed", theirs, DASH, ours, DASH))
    return lines


def _curves(ax: Axes, epochs: pd.DataFrame, keys: Mapping[str, str], unit: float) -> None:
    for key, dots in keys.items():
        for layer, (colour, line, face) in LOOK.items():
            rows = over_seeds(_of(epochs, layer).assign(value=unit * _of(epochs, layer)[key]), ["epoch"], "value")
            style = dots if dots != "-" else line
            ax.fill_between(rows["epoch"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
            ax.plot(rows["epoch"], rows["median"], color=colour, ls=style, marker="o", mfc=face, ms=2.8)
            offset = 0.12 if layer == "batch" else -0.12  # printed values that are equal stand side by side
            ax.plot(EPOCHS + offset, unit * PRINTED[key][layer], "D", ms=5, mfc="white", mec=colour, mew=1.2, zorder=5)
    ax.set_xlabel("epoch")
    ax.set_xlim(0.6, EPOCHS + 0.6)


def _parameters(ax: Axes, rows: pd.DataFrame) -> None:
    for layer, (colour, _, face) in LOOK.items():
        keys = ["seed", "channel"]
        wide = _of(rows, layer).pivot(index=keys, columns="quantity", values="value")
        if len(wide):
            ax.plot(wide["weight"], wide["bias"], "o", color=colour, mfc=face, ms=4, mew=1)
    ax.plot(GAMMA, BETA, "D", color=figures.MUTED, mfc="white", ms=5.5, mew=1.3, zorder=5)
    ax.axvline(1, color=figures.FAINT, lw=0.9, zorder=0)
    ax.axhline(0, color=figures.FAINT, lw=0.9, zorder=0)
    ax.set_xlabel(r"scale $\gamma$ of a channel (started at 1)")
    ax.set_ylabel(r"shift $\beta$ (started at 0)")


def _of(rows: pd.DataFrame, layer: str) -> pd.DataFrame:
    return rows[rows["norm"] == layer]


def _last(epochs: pd.DataFrame) -> dict[str, dict[str, Spread]]:
    rows = epochs[epochs["epoch"] == epochs["epoch"].max()]
    return {layer: {key: spread(_of(rows, layer)[key]) for key in PRINTED} for layer in LAYERS}


def _seeds(frames: Mapping[str, pd.DataFrame]) -> int:
    """Seeds of the layer that has fewest, among runs that were trained for ten epochs."""
    whole = frames["epochs"].query(f"epoch == {EPOCHS}")
    return min(_of(whole, layer)["seed"].nunique() for layer in LAYERS)


def _alike(one: Spread, other: Spread) -> bool:
    return abs(one.median - other.median) <= max(one.high - one.low, other.high - other.low)


def _grown(rows: pd.DataFrame) -> pd.Series[bool]:
    """Of each seed: whether every gamma is above 1 and beta has both signs."""
    own = _of(rows, "batch_scratch")
    smallest = own[own["quantity"] == "weight"].groupby("seed")["value"].min()
    beta = own[own["quantity"] == "bias"].groupby("seed")["value"].agg(["min", "max"])
    return (smallest > 1) & (beta["min"] < 0) & (beta["max"] > 0)


def _extremes(rows: pd.DataFrame) -> str:
    own = _of(rows, "batch_scratch")
    parts = []
    for name, quantity in (("gamma", "weight"), ("beta", "bias")):
        values = own.loc[own["quantity"] == quantity, "value"].to_numpy()
        if values.size:
            parts.append(f"{name} {number(float(np.min(values)))} to {number(float(np.max(values)))}")
    return ", ".join(parts)


def _range(values: Spread) -> str:
    return f"{values.low:.3f} to {values.high:.3f}"


def _cell(values: Spread) -> str:
    return f"{values.median:.3f} [{_range(values)}]" if values.n else DASH
