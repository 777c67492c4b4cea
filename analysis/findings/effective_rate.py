"""How far an update turns weights that BN makes scale-free, and what that means for accuracy (Wan et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import number, spread
from bnstudy.analysis.stats import Scale

PRODUCTS = (0.00025, 0.001, 0.004)  # of rate and weight decay, that every rate has
RATES = {0.05: "o", 0.2: "s", 0.8: "^"}
CHANCE = 20  # % of test images; a network that has died classifies 10 %
SETTLED = 3000  # updates after which the angle is taken
TURNS = {
    product: Part(
        "angle an update over sqrt(2 rate x decay)",
        above=0.9,
        below=1.1,
        scale=Scale.log,
        at=f"product {number(product)}",
    )
    for product in PRODUCTS
}
ALIKE = {
    product: Part(
        "largest less smallest final test accuracy of the three rates",
        below=1,
        unit="points",
        at=f"product {number(product)}",
    )
    for product in PRODUCTS
}
LEARNT = Need("lowest final test accuracy of the networks compared", "a network did not learn", above=50)

TITLE = "How far an update turns the weights before BN"
CAPTION = (
    "LeNet with BN and ReLU on Fashion-MNIST, plain SGD, 4,000 updates. (a) Angle by which an update turns a layer's "
    "weights (root mean square over the last 1,000 updates and the four layers before a BN) against the product of "
    "learning rate and weight decay; mean over seeds, bars: 95 % intervals; line: sqrt(2 rate x decay); black: "
    "geometric mean over the three rates. Networks that ended at chance (b: below 20 %) are left out. (b) Final test "
    "accuracy of every network, symbols as in (a). (c) How far the three rates lie apart there, at the products that "
    "all three have: the largest accuracy less the smallest; dots: seeds, black: their mean and 95 % interval, dashed: "
    "the margin of the claim."
)
SWEEP = "effective_rate"
NEEDS = {"gradient_norms": "norm == 'batch' and layer != 'classifier'", "epochs": "norm == 'batch'"}
SIZE = (12.4, 4.3)
WHERE = "Wan et al. (2021), equilibrium of weight decay"
CLAIMS = (
    Claim(
        id="B4-angle",
        origin="ours",
        where=WHERE,
        scale="textbook",
        says="The angle a scale-free weight turns an update settles at what rate times weight decay says.",
        criterion=Criterion(
            tuple(TURNS.values()), partial=2, remark="Geometric mean over the rates; plain SGD: without momentum."
        ),
        published="sqrt(2 rate x decay / (1 + momentum))",
    ),
    Claim(
        id="B4-accuracy",
        origin="ours",
        where=WHERE,
        scale="textbook",
        says="With BN the product of rate and weight decay alone says how well a network ends.",
        criterion=Criterion(tuple(ALIKE.values()), partial=2, needs=(LEARNT,), remark="Rates of 0.05, 0.2 and 0.8."),
        published="no values",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    cells = _cells(frames)
    left, middle, right = fig.subplots(1, 3)
    judged = measure(frames)
    _against_product(left, cells[cells["accuracy"] > CHANCE], "angle", Scale.log)
    across = np.array(sorted({cells["product"].min(), *PRODUCTS, cells["product"].max()}))
    left.plot(across, np.degrees(np.sqrt(2 * across)), color=figures.MUTED, lw=1, ls=":", zorder=1)
    for product, part in TURNS.items():
        over_rates = stats.interval(judged["B4-angle"][part.key].values, Scale.log).mean
        level = over_rates * np.degrees(np.sqrt(2 * product))
        left.plot([product / 1.25, product * 1.25], [level, level], color=figures.INK, lw=1.4, zorder=5)
    left.set_yscale("log")
    left.set_ylabel("angle an update (degrees)")
    figures.panel(left, "a", "rotation")
    for position, (rate, marker) in enumerate(RATES.items()):
        rows = cells[np.isclose(cells["lr"], rate)]
        middle.scatter(
            rows["product"] * 1.06 ** (position - 1), rows["accuracy"], marker=marker, s=22, lw=0,
            color=figures.COLOURS["batch"], alpha=0.45 + 0.25 * position,
        )  # fmt: skip
    middle.set_ylim(0, 100)
    middle.set_ylabel("final test accuracy (%)")
    figures.panel(middle, "b", "accuracy")
    for product, part in ALIKE.items():
        values = judged["B4-accuracy"][part.key].values
        found = stats.interval(values)
        right.scatter([product / 1.12] * len(values), values, s=16, lw=0, color=figures.COLOURS["batch"], alpha=0.6)
        errors = [[found.mean - found.low], [found.high - found.mean]]
        right.errorbar([product], [found.mean], errors, fmt="_", ms=12, mew=1.4, color=figures.INK, elinewidth=1)
    right.axhline(1, color=figures.MUTED, lw=1, ls="--", zorder=1)
    right.set_ylabel("largest less smallest accuracy (points)")
    figures.panel(right, "c", "accuracy apart")
    for ax in (middle, right):
        ax.set_xscale("log")
        ax.set_xlabel("learning rate x weight decay")
    right.set_xlim(PRODUCTS[0] / 2, PRODUCTS[-1] * 2)
    right.set_xticks(PRODUCTS, [number(product) for product in PRODUCTS])
    right.minorticks_off()
    handles = [figures.entry(f"rate {number(rate)}", marker) for rate, marker in RATES.items()]
    handles.append(figures.entry("sqrt(2 rate x decay)", ls=":", lw=1))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    cells = _cells(frames)
    turns, alike, compared = {}, {}, []
    for product in PRODUCTS:
        part = cells[np.isclose(cells["product"], product, rtol=1e-6) & cells["lr"].isin(list(RATES))]
        table = part.pivot(index="seed", columns="lr", values="ratio").reindex(columns=list(RATES))
        turns[TURNS[product].key] = table.prod(axis=1, skipna=False) ** (1 / len(RATES))
        accuracy = part.pivot(index="seed", columns="lr", values="accuracy").reindex(columns=list(RATES))
        alike[ALIKE[product].key] = accuracy.max(axis=1, skipna=False) - accuracy.min(axis=1, skipna=False)
        compared.append(accuracy.min(axis=1, skipna=False))
    lowest = pd.concat(compared, axis=1).min(axis=1)
    values = {"B4-angle": turns, "B4-accuracy": {**alike, LEARNT.of: lowest}}
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    cells = _cells(frames)
    lines = []
    for product in PRODUCTS:
        for rate in RATES:
            part = cells[np.isclose(cells["product"], product, rtol=1e-6) & np.isclose(cells["lr"], rate)]
            text = f"{spread(part['ratio'])}; accuracy {spread(part['accuracy'])} %"
            lines.append(
                Comparison(f"angle over theory, product {number(product)}, rate {number(rate)}", "1", "", text, "")
            )
    return lines


def _cells(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run: rate, product, root mean square angle (degrees), that over theory, final test accuracy (%)."""
    looks = frames["gradient_norms"]
    late = looks[looks["step"] >= min(SETTLED, 0.75 * looks["step"].max())]
    lr, product = late["lr"], late["lr"] * late["weight_decay"]
    # The gradient of a scale-free weight is orthogonal to it, and the decay points along it.
    angle = np.arctan(lr * late["gradient"] / ((1 - product) * late["weight"]))
    late = late.assign(square=angle**2, product=product)
    cells = late.groupby(["run_id", "seed", "lr", "product"], observed=True)["square"].mean().reset_index()
    root = np.sqrt(cells["square"])
    last = frames["epochs"].sort_values("epoch", kind="stable").groupby("run_id", observed=True)["test_accuracy"].last()
    return cells.assign(
        angle=np.degrees(root),
        ratio=root / np.sqrt(2 * cells["product"]),
        accuracy=100 * cells["run_id"].map(last).astype(float),
    )


def _against_product(ax: Axes, cells: pd.DataFrame, column: str, scale: Scale) -> None:
    for position, (rate, marker) in enumerate(RATES.items()):
        rows = stats.over_seeds(cells[np.isclose(cells["lr"], rate)], ["product"], column, scale)
        x = rows["product"] * 1.06 ** (position - 1)  # beside one another
        errors = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        ax.errorbar(
            x, rows["mean"], errors, fmt=marker, ms=5, mew=0, elinewidth=1, color=figures.COLOURS["batch"],
            alpha=0.45 + 0.25 * position,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("learning rate x weight decay")
