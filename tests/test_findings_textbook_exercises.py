"""The exercises and asides of the chapter on BN: what reproduces them, what refutes them, and pictures of both."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings

SEEDS = range(4)


def judged(name, frames):
    """The verdicts by claim; the figure is drawn and the numbers listed on the way."""
    made = findings.load(synthetic.FINDINGS / f"{name}.py")
    made.plot(figures.new(made.size, made.title, "synthetic", synthetic=False), frames)
    assert made.numbers(frames)
    return [str(evidence.verdict) for evidence in made.evidence(frames).values()]


def rows(cells, **every):
    """A row per cell and seed; a callable value is given the seed."""
    return pd.DataFrame(
        {"run_id": f"{index}-{seed}", "seed": seed, "outcome": "trained"} | every
        | {key: value(seed) if callable(value) else value for key, value in cell.items()}
        for index, cell in enumerate(cells) for seed in SEEDS
    )  # fmt: skip


def about(value):
    return lambda seed: value + 1e-4 * seed


def gradients(with_bn, without):
    """Gradients that grow by these exponents a layer."""
    table = [
        {"norm": norm, "seed": seed, "run_depth": depth, "depth": layer, "step": 0, "model": "deep_perceptron",
         "residual": False, "gradient": math.exp(slope * layer * (1 + 0.001 * seed))}
        for norm, slope in (("batch", with_bn), ("none", without)) for seed in SEEDS
        for depth in (5, 10, 20, 50, 100) for layer in range(1, depth + 1)
    ]  # fmt: skip
    return {"gradient_norms": pd.DataFrame(table)}


def test_gradients_by_depth():
    assert judged("textbook_gradients_depth", gradients(0.001, -0.3)) == ["reproduced"]
    assert judged("textbook_gradients_depth", gradients(-0.19, -0.3)) == ["not reproduced"]
    assert judged("textbook_gradients_depth", gradients(0.001, 0.001)) == ["not reproduced"]


def parameters(gamma, beta):
    """Channels whose statistics rise with their number, and parameters that are these functions of the number."""
    table = [
        {"norm": "batch", "seed": seed, "site": site, "channel": channel, "quantity": quantity, "value": value,
         "step": 2350, "num_steps": 2350, "epochs": 10}
        for seed in SEEDS for site in ("norm1", "norm2", "norm3", "norm4") for channel in range(6)
        for quantity, value in (("running_var", channel + 1.0), ("running_mean", channel - 3.0),
                                ("weight", gamma(channel + 0.01 * seed)), ("bias", beta(channel)))
    ]  # fmt: skip
    return {"norm_parameters": pd.DataFrame(table)}


def test_undone():
    def follows(channel):
        return 2.0 * channel

    def opposes(channel):
        return -channel

    assert judged("textbook_undo", parameters(follows, follows)) == ["reproduced"]
    assert judged("textbook_undo", parameters(follows, opposes)) == ["partly"]
    assert judged("textbook_undo", parameters(opposes, opposes)) == ["not reproduced"]


def one_by_one(gradient, learnt):
    places = ("norm3,norm4", "norm1,norm2")
    norms = [
        {"norm_where": where, "seed": seed, "step": step, "depth": depth, "layer": f"layer{depth}",
         "gradient": gradient if where == places[0] and depth < 5 else 1.0}
        for where in places for seed in SEEDS for step in (0, 2000) for depth in range(1, 6)
    ]  # fmt: skip
    accuracy = dict(zip(places, (0.1, learnt), strict=True))
    cells = [
        {"norm_where": where, "final_train_accuracy": value, "final_test_accuracy": about(value)}
        for where, value in accuracy.items()
    ]
    return {"gradient_norms": pd.DataFrame(norms), "runs": rows(cells, num_train=2000)}


def test_batch_of_one():
    assert judged("textbook_batch_of_one", one_by_one(0.0, 0.1)) == ["reproduced"]
    assert judged("textbook_batch_of_one", one_by_one(0.0, 0.6)) == ["partly"]
    assert judged("textbook_batch_of_one", one_by_one(1e-30, 0.6)) == ["not reproduced"]


def epsilons(small):
    accuracy = {1e-12: 0.8 + small, 1e-5: 0.8, 1e-3: 0.8 + small, 0.1: 0.7}
    cells = [
        {"norm_eps": eps, "final_train_accuracy": about(value), "final_test_accuracy": value}
        for eps, value in accuracy.items()
    ]
    return {"runs": rows(cells, epochs=3)}


def test_epsilon():
    assert judged("textbook_epsilon", epsilons(0.001)) == ["reproduced"]
    assert judged("textbook_epsilon", epsilons(0.02)) == ["not reproduced"]
    short = {"runs": epsilons(0.001)["runs"].assign(epochs=1)}
    assert judged("textbook_epsilon", short) == ["undecided"]


def inputs(pixels, standardised, norm_first):
    arms = (("none", "unit", pixels), ("none", "channel", standardised), ("batch", "unit", norm_first))
    cells = [
        {"norm": norm, "normalise": normalise, "epoch": epoch, "train_loss": about(loss + 3 - epoch)}
        for norm, normalise, loss in arms for epoch in (1, 2, 3)
    ]  # fmt: skip
    return {"epochs": rows(cells, epochs=3)}


def test_inputs():
    assert judged("textbook_inputs", inputs(0.9, 0.6, 0.601)) == ["reproduced"]
    assert judged("textbook_inputs", inputs(0.9, 0.6, 0.7)) == ["partly"]
    assert judged("textbook_inputs", inputs(0.6, 0.7, 0.9)) == ["not reproduced"]


def places(sigmoid, relu):
    """Points of training accuracy by which BN before the activation is ahead."""
    cells = [
        {"model": model, "activation": activation, "final_test_accuracy": 0.8,
         "final_train_accuracy": about(0.8 + (ahead / 100 if model == "lenet" else 0))}
        for activation, ahead in (("sigmoid", sigmoid), ("relu", relu)) for model in ("lenet", "lenet_norm_after")
    ]  # fmt: skip
    return {"runs": rows(cells, epochs=5)}


def test_before_and_after():
    assert judged("textbook_before_after", places(0.2, -0.2)) == ["reproduced"]
    assert judged("textbook_before_after", places(3, -0.2)) == ["partly"]
    assert judged("textbook_before_after", places(3, -3)) == ["not reproduced"]


def valleys(with_bn, without, centre=0):
    """Training errors that rise by so many points a decade away from the best rate, 10**centre."""
    cells = [
        {"norm": norm, "lr": 10.0**power, "final_test_accuracy": 0.8,
         "final_train_accuracy": about(0.95 - slope * abs(power - centre) / 100)}
        for norm, slope in (("batch", with_bn), ("none", without)) for power in (-2, -1, 0, 1, 2)
    ]  # fmt: skip
    return {"runs": rows(cells, epochs=50)}


def test_error_by_rate():
    assert judged("textbook_error_by_rate", valleys(1, 4)) == ["reproduced"]  # 4 decades and 1
    assert judged("textbook_error_by_rate", valleys(3, 4)) == ["partly"]  # a third of a decade more
    assert judged("textbook_error_by_rate", valleys(4, 1)) == ["not reproduced"]
    assert judged("textbook_error_by_rate", valleys(1, 4, centre=2)) == ["undecided"]


def test_widths_are_interpolated_between_rates():
    made = findings.load(synthetic.FINDINGS / "textbook_error_by_rate.py")
    estimates = made.evidence(valleys(3, 4))["textbook-error-by-rate"].estimates
    assert next(iter(estimates.values())).mean == pytest.approx(2 * (2 / 3 - 2 / 4), rel=0.01)
