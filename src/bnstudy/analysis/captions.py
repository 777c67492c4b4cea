"""What the header of a figure says in prose: what was measured, and on how many seeds and runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from bnstudy.analysis import figures, frames


def setting(data: Mapping[str, pd.DataFrame], *, images: bool) -> str:
    """What was measured: network, data where its images play a part, budget."""
    frame = _first(data)
    networks = frame["network"].dropna().astype(str).unique()
    data_names = frames.data_names(frame).dropna().astype(str).unique()
    epochs = frame["epochs"].unique()
    alike = len(epochs) == 1 and not pd.isna(epochs[0]) and epochs[0] > 0
    budget = f", {epochs[0]:g} epoch{'' if epochs[0] == 1 else 's'}" if alike else ""
    return f"{in_prose(networks)}{f' on {in_prose(data_names)}' if images else ''}{budget}"


def counts(data: Mapping[str, pd.DataFrame], *, images: bool = True) -> str:
    """On how many seeds and runs; what is not shown images has no arms."""
    frame = _first(data)
    if not set(frame["norm"].unique()) <= set(frames.ARMS):
        counted = frame.groupby("norm", observed=True)["seed"].nunique()
        plural = "" if counted.max() == 1 else "s"
        return f"n = {_range(counted.min(), counted.max())} seed{plural} an arm, {frame['run_id'].nunique()} runs"
    nowhere = frames.placed(frame)["place"] == "none"  # BN behind none of the layers is no BN
    by_arm = frames.arms(frame.assign(norm=frame["norm"].astype(str).mask(nowhere, "none")))
    seeds = {figures.LABELS[arm]: part["seed"].nunique() for arm, part in by_arm.items()}
    if len(seeds) == 1:
        ((arm, count),) = seeds.items()
        each = f"{count} seed{'' if count == 1 else 's'}{f', all {arm}' if images else ''}"
    elif len(set(seeds.values())) == 1:
        count = min(seeds.values())
        each = f"{count} seed{'' if count == 1 else 's'} an arm"
    else:
        each = ", ".join(f"{count} {arm}" for arm, count in seeds.items())
    return f"n = {each}, {frame['run_id'].nunique()} runs"


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _first(data: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each run of the first table; one that failed has measured nothing."""
    runs = next(frame for name, frame in data.items() if name != "published").drop_duplicates("run_id")
    ended = runs[runs["status"].isin(("completed", "diverged"))] if "status" in runs else runs
    return runs if ended.empty else ended


def in_prose(names: Iterable[str]) -> str:
    """Names as they are written in prose, in order; unknown ones as they are."""
    spelling = {
        "cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "lenet": "LeNet", "mlp": "perceptron",
        "matrix_product": "products of matrices", "tutorial_cnn": "a tutorial's network", "lenet_norm_first": "LeNet",
        "lenet_norm_after": "LeNet", "lenet_per_pixel": "LeNet",
    }  # fmt: skip
    ordered = sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    spelled = list(dict.fromkeys(spelling.get(n, re.sub(r"^resnet(\d+)$", r"ResNet-\1", n)) for n in ordered))
    depths = [int(match[1]) for name in spelled if (match := re.fullmatch(r"deep_perceptron(\d+)", name))]
    if depths and len(depths) == len(spelled):
        return f"perceptrons of {_range(depths[0], depths[-1])} layers"
    if len(spelled) > 3 and all(name.startswith("ResNet-") for name in spelled):
        return f"{spelled[0]} to {spelled[-1].removeprefix('ResNet')}"
    return ", ".join(spelled)
