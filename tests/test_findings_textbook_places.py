"""The findings on what the textbook says in passing: what reproduces, what refutes, and pictures of both."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings

SEEDS = range(4)


def judged(name, frames):
    """The evidence, by claim, after everything that a reader sees was drawn and written."""
    made = findings.load(synthetic.FINDINGS / f"{name}.py")
    made.plot(figures.new(made.size, made.title, "synthetic", synthetic=False), frames)
    assert made.numbers(frames)
    return made.evidence(frames)


def verdict(name, frames):
    (evidence,) = judged(name, frames).values()
    return str(evidence.verdict)


def variance(ratio, sizes=(2, 8, 32), seeds=SEEDS):
    """`ratio` gives the mean variance of mini-batches over that of all images, by their size; seeds differ a little."""
    return {
        "batch_variance": pd.DataFrame(
            [
                {"run_id": f"{seed}", "seed": seed, "step": 0, "norm": "batch", "batch_size": size, "num_batches": 100,
                 "ratio": ratio(size) + 0.001 * (seed % 2) / size, "scatter": 1 / size**0.5}
                for size in sizes for seed in seeds
            ]
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (lambda m: 1, "reproduced"),
        (lambda m: (m - 1) / m, "not reproduced"),
        (lambda m: 1 if m < 32 else (m - 1) / m, "not reproduced"),
        (lambda m: 1 + 0.2 / m, "not reproduced"),
    ],
)
def test_variance(ratio, expected):
    assert verdict("textbook_variance", variance(ratio)) == expected


def test_variance_is_judged_in_units_of_its_bias():
    (evidence,) = judged("textbook_variance", variance(lambda m: (m - 1) / m)).values()
    assert [of.mean for of in evidence.estimates.values()] == pytest.approx([0.0005] * 3)
    assert verdict("textbook_variance", variance(lambda m: 1, seeds=range(2))) == "undecided"


NORMAL = 0.806


def linear_region(before, after, epochs=10, without=0.97):
    """Shares by epoch: with BN a line from `before` to `after`, without BN one to 0.7; gammas and betas at its end."""
    rows = [
        {"run_id": f"{norm}-{seed}", "seed": seed, "norm": norm, "epochs": epochs, "step": 100 * epoch,
         "share": first + (last - first) * epoch / epochs + 0.001 * seed * (epoch > 0)}
        for norm, first, last in (("batch", before, after), ("none", without, 0.7))
        for seed in SEEDS for epoch in range(epochs + 1)
    ]  # fmt: skip
    learned = [
        {"run_id": f"batch-{seed}", "seed": seed, "step": 100 * epochs, "quantity": quantity, "channel": channel,
         "value": 1 + 0.1 * channel}
        for seed in SEEDS for quantity in ("weight", "bias") for channel in range(3)
    ]  # fmt: skip
    return {"linear_region": pd.DataFrame(rows), "norm_parameters": pd.DataFrame(learned)}


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (linear_region(0.95, 0.6, without=0.8), "reproduced"),
        (linear_region(0.95, 0.94, without=0.8), "partly"),  # confined, and it stays so
        (linear_region(NORMAL, 0.6), "partly"),  # less confined than without BN, whatever a normal law has
        (linear_region(0.95, 0.94), "not reproduced"),
        (linear_region(0.95, 0.99), "not reproduced"),
        (linear_region(NORMAL, 0.6, epochs=3), "undecided"),
    ],
)
def test_linear_region(frames, expected):
    assert verdict("textbook_linear_region", frames) == expected


def test_the_change_over_training_is_of_each_seed():
    (evidence,) = judged("textbook_linear_region", linear_region(NORMAL, 0.6)).values()
    first, change = (of.mean for of in evidence.estimates.values())
    assert first == pytest.approx(100 * (NORMAL - 0.97)) and change == pytest.approx(100 * (0.6 - NORMAL + 0.0015))


def final(cells, **columns):
    """Runs by their columns, with accuracies in percent: training, test. Seeds differ a little, in pairs alike."""
    rows = [
        {**of, **columns, "seed": seed, "outcome": "completed", "run_id": f"{index}-{seed}",
         "final_train_accuracy": (train + 0.1 * (seed + index % 2 * seed)) / 100,
         "final_test_accuracy": (test + 0.1 * (seed + index % 2 * seed)) / 100}
        for index, (of, train, test) in enumerate(cells) for seed in SEEDS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def per_pixel(train, test, epochs=5):
    return {"runs": final([({"model": "lenet"}, 85, 80), ({"model": "lenet_per_pixel"}, train, test)], epochs=epochs)}


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (per_pixel(80, 75), "reproduced"),
        (per_pixel(90, 75), "partly"),
        (per_pixel(80, 85), "partly"),
        (per_pixel(90, 85), "not reproduced"),
        (per_pixel(80, 75, epochs=2), "undecided"),
    ],
)
def test_per_pixel(frames, expected):
    assert verdict("textbook_per_pixel", frames) == expected


def overfitting(dropout, half, batch=85, fit=99.6, num_train=5000):
    """Test accuracies in percent, and what none and BN fit."""
    nan = float("nan")
    cells = [
        ({"norm": "none", "norm_p": nan}, fit, 82),
        ({"norm": "batch", "norm_p": nan}, 99.9, batch),
        ({"norm": "dropout", "norm_p": 0.2}, 95, dropout),
        ({"norm": "dropout", "norm_p": 0.5}, 90, half),
    ]
    runs = final(cells, num_train=num_train)
    fitted = {name: train / 100 for (of, train, _), name in zip(cells, range(4), strict=True)}
    splits = runs.assign(split="train", accuracy=[fitted[int(name[0])] for name in runs["run_id"]])
    return {"runs": runs, "splits": splits}


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (overfitting(85, 80), "reproduced"),
        (overfitting(80, 85), "reproduced"),
        (overfitting(87, 80), "not reproduced"),
        (overfitting(80, 87), "not reproduced"),  # it is the better dropout that counts
        (overfitting(86, 80), "undecided"),  # about a point
        (overfitting(80, 80, fit=98), "undecided"),  # nothing overfits
        (overfitting(80, 80, num_train=500), "undecided"),
    ],
)
def test_dropout_overfits(frames, expected):
    assert verdict("textbook_dropout_overfits", frames) == expected
