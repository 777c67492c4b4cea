"""BN-LeNet on Fashion-MNIST as Dive into Deep Learning prints it: the layer written out, and the library's."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, Spread, spread
from bnstudy.analysis.stats import Scale

LAYERS = {"batch_scratch": "written out", "batch": "torch's"}
LOOK = {  # colour, line, marker's face
    "batch": (figures.COLOURS["batch"], "-", figures.COLOURS["batch"]),
    "batch_scratch": (figures.NORMS["batch_scratch"], "--", "white"),
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
NEAR = {"train_loss": 0.02, "train_accuracy": 0.01, "test_accuracy": 0.02}
WHOSE = {"batch_scratch": "written out", "batch": "of torch"}
AS_PRINTED = {
    (key, layer): Part(f"{NAMES[key]} of the layer {WHOSE[layer]} less the printed one", above=-NEAR[key],
                       below=NEAR[key])
    for key in PRINTED for layer in LAYERS
}  # fmt: skip
ALIKE = {
    key: Part(f"{NAMES[key]} of torch's layer less that of the layer written out", above=-NEAR[key], below=NEAR[key])
    for key in ("train_loss", "train_accuracy")
}
FASTER = Part("images per second with the library's layer over those with the one written out", above=1.5,
              scale=Scale.log)  # fmt: skip
UNAIDED = Need(
    "share of the library's runs that used this project's kernels", "it times this project's kernels and not the "
    "library's layer: to be run with BNSTUDY_KERNELS=0", below=0.5,
)  # fmt: skip
GAMMA_ABOVE = Part("smallest gamma of a seed", above=1, scale=Scale.log)
BETA_BELOW, BETA_ABOVE = Part("smallest beta of a seed", below=0), Part("largest beta of a seed", above=0)

TITLE = "BN-LeNet on Fashion-MNIST: beside what the textbook prints"
CAPTION = (
    "Learning rate 1, ten epochs (preset quick: three), batches of 256, max pooling, sigmoid. Loss and training "
    "accuracy are means over an epoch while the weights change; test accuracy is that after it, with running "
    "statistics. (a, b) Mean (line) over seeds and 95 % interval (band) after each epoch. (c) Scale and shift of the "
    "six channels of the first BN layer after training, all seeds. Hollow diamonds: published (Gluon edition, one run "
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
        criterion=Criterion(
            (AS_PRINTED["train_loss", "batch_scratch"], AS_PRINTED["train_accuracy", "batch_scratch"]), partial=1
        ),
        published="0.249, 0.908",
    ),
    Claim(
        id="textbook-lenet-2",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The library's layer trains as the one written out does.",
        criterion=Criterion(tuple(ALIKE.values()), partial=1, remark="Paired by seed."),
        published="0.249 and 0.250; 0.908 and 0.908",
    ),
    Claim(
        id="textbook-lenet-3",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="After ten epochs the test accuracy of the layer written out is 0.878, of the library's 0.796.",
        criterion=Criterion(
            tuple(AS_PRINTED["test_accuracy", layer] for layer in LAYERS),
            partial=1,
            remark="Two such numbers from one network are possible only if single runs scatter: see the range.",
        ),
        published="0.878; 0.796",
    ),
    Claim(
        id="textbook-lenet-4",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="The library's layer trains faster than the one written out.",
        criterion=Criterion((FASTER,), partial=(Part(FASTER.of, above=1.1, scale=Scale.log),), needs=(UNAIDED,)),
        published="51,201 and 23,990 examples/s on a GPU: 2.1 times",
    ),
    Claim(
        id="textbook-lenet-5",
        origin="course",
        where=WHERE,
        scale="textbook",
        says="Every scale gamma of the first BN layer grows above 1; the shifts beta take both signs.",
        criterion=Criterion(
            (GAMMA_ABOVE, BETA_BELOW, BETA_ABOVE),
            remark="Of the six channels of the first BN layer, written out, after ten epochs.",
        ),
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


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    last = frames["epochs"].query(f"epoch == {EPOCHS}")
    of = {(key, layer): _of(last, layer).set_index("seed")[key] for key in PRINTED for layer in LAYERS}
    printed = {part.key: of[key, layer] - PRINTED[key][layer] for (key, layer), part in AS_PRINTED.items()}
    alike = {part.key: stats.effect(of[key, "batch"], of[key, "batch_scratch"]) for key, part in ALIKE.items()}
    speed = {layer: _of(frames["throughput"], layer).groupby("seed")["examples_per_sec"].median() for layer in LAYERS}
    faster = stats.effect(speed["batch"], speed["batch_scratch"], Scale.log)
    own = _of(frames["norm_parameters"], "batch_scratch")
    gamma, beta = (own[own["quantity"] == q].groupby("seed")["value"].agg(["min", "max"]) for q in ("weight", "bias"))
    values = {
        "textbook-lenet-1": printed,
        "textbook-lenet-2": alike,
        "textbook-lenet-3": printed,
        "textbook-lenet-4": {FASTER.key: faster, UNAIDED.of: _share_aided(frames["throughput"])},
        "textbook-lenet-5": {
            GAMMA_ABOVE.key: gamma["min"], BETA_BELOW.key: beta["min"], BETA_ABOVE.key: beta["max"],
        },
    }  # fmt: skip
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


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
        of_first = rows[(rows["quantity"] == quantity) & (rows["seed"] == rows["seed"].min())]
        first = of_first.sort_values("channel", kind="stable")
        ours = ", ".join(f"{value:.3f}" for value in first["value"]) or DASH
        theirs = ", ".join(f"{value:.3f}" for value in printed)
        lines.append(Comparison(f"{name} of the first BN layer, written out, first seed", theirs, DASH, ours, DASH))
    return lines


def _curves(ax: Axes, epochs: pd.DataFrame, keys: Mapping[str, str], unit: float) -> None:
    for key, dots in keys.items():
        for layer, (colour, line, face) in LOOK.items():
            rows = stats.over_seeds(_of(epochs, layer).assign(value=unit * _of(epochs, layer)[key]), ["epoch"], "value")
            style = dots if dots != "-" else line
            ax.fill_between(rows["epoch"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
            ax.plot(rows["epoch"], rows["mean"], color=colour, ls=style, marker="o", mfc=face, ms=2.8)
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


def _share_aided(throughput: pd.DataFrame) -> pd.Series:
    """Of each seed, the share of runs of torch's layer that used kernels of ours; where a table does not tell, all."""
    rows = _of(throughput, "batch")
    known = rows["kernels"] if "kernels" in rows else pd.Series(True, index=rows.index)
    aided: pd.Series = known.ne(False).astype(float).groupby(rows["seed"]).mean()
    return aided


def _of(rows: pd.DataFrame, layer: str) -> pd.DataFrame:
    return rows[rows["norm"] == layer]


def _last(epochs: pd.DataFrame) -> dict[str, dict[str, Spread]]:
    rows = epochs[epochs["epoch"] == epochs["epoch"].max()]
    return {layer: {key: spread(_of(rows, layer)[key]) for key in PRINTED} for layer in LAYERS}


def _range(values: Spread) -> str:
    return f"{values.low:.3f} to {values.high:.3f}"


def _cell(values: Spread) -> str:
    return f"{values.median:.3f} [{_range(values)}]" if values.n else DASH
