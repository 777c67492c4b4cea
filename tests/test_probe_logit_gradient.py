"""The classifier's gradient against loops, autograd and cases known in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from probe_networks import look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes
from bnstudy.probes.logit_gradient import mean_pairwise_cosine
from bnstudy.probes.snapshot import Snapshot


def rows_of(logits, labels):
    """The probe's rows for these logits: {(example, column): entry}, {quantity: row}."""
    logits, labels = torch.as_tensor(logits), torch.as_tensor(labels)
    seen = SimpleNamespace(logits_NK=logits, labels_N=labels)
    seen.logit_gradient_NK = Snapshot.logit_gradient_NK.fget(seen)  # type: ignore[attr-defined]
    rows = probes.rows("logit_gradient", {}, seen)  # type: ignore[arg-type]
    entries = {(r["example"], r["column"]): r for r in rows if r["quantity"] == "entry"}
    return entries, {r["quantity"]: r for r in rows if r["quantity"] != "entry"}


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_rows_are_those_of_loops_over_autograds_gradient():
    network, loader = make_network("none").double(), make_loader()
    seen = look(network, loader, reads={"logits"})
    rows = probes.rows("logit_gradient", {}, seen)
    logits = network.train()(loader.images[:6].double()).detach().requires_grad_()
    functional.cross_entropy(logits, seen.labels_N).backward()
    grad, softmax = logits.grad, logits.detach().softmax(1)
    num, classes = grad.shape
    entries = [r for r in rows if r["quantity"] == "entry"]
    assert len(entries) == num * classes
    for row in entries:
        assert row["value"] == pytest.approx(grad[row["example"], row["column"]].item())
        assert row["label"] == seen.labels_N[row["example"]]
    summary = {r["quantity"]: r for r in rows if r["quantity"] != "entry"}
    positive = [sum(max(grad[i, k].item(), 0) for i in range(num)) for k in range(classes)]
    sums = [abs(sum(grad[i, k].item() for i in range(num))) for k in range(classes)]
    pairs = [(i, j) for i in range(num) for j in range(i)]
    expected = {
        "top_column_share": (max(positive) / sum(positive), positive.index(max(positive))),
        "mean_max_softmax": (sum(max(row) for row in softmax.tolist()) / num, -1),
        "max_abs_column_sum": (max(sums), sums.index(max(sums))),
        "cosine": (sum(cosine(grad[i], grad[j]) for i, j in pairs) / len(pairs), -1),
        "cosine_without_label": (sum(cosine(softmax[i], softmax[j]) for i, j in pairs) / len(pairs), -1),
    }
    assert summary.keys() == expected.keys()
    for quantity, (value, column) in expected.items():
        assert summary[quantity]["value"] == pytest.approx(value), quantity
        assert [summary[quantity][key] for key in ("column", "example", "label")] == [column, -1, -1]


def test_equal_logits_and_one_example_a_class():
    """g = (1/K - one-hot) / N, centred one-hot vectors: cosine -1 / (K - 1) between any two; no column stands out."""
    entries, summary = rows_of(torch.zeros(10, 10), torch.arange(10))
    assert entries[3, 3]["value"] == pytest.approx(-0.09) and entries[3, 4]["value"] == pytest.approx(0.01)
    assert summary["cosine"]["value"] == pytest.approx(-1 / 9)
    assert summary["cosine_without_label"]["value"] == pytest.approx(1)
    assert summary["top_column_share"]["value"] == pytest.approx(0.1)
    assert summary["mean_max_softmax"]["value"] == pytest.approx(0.1)
    assert summary["max_abs_column_sum"]["value"] == pytest.approx(0, abs=1e-12)


def test_one_class_for_every_image():
    """Figure 6, left: softmax is one-hot in column 2 whatever the image, the gradient there 1/N but for class 2."""
    logits = torch.zeros(10, 10)
    logits[:, 2] = 300.0
    entries, summary = rows_of(logits, torch.arange(10))
    assert entries[0, 2]["value"] == pytest.approx(0.1) and entries[0, 0]["value"] == pytest.approx(-0.1)
    assert summary["top_column_share"] == {
        "quantity": "top_column_share", "example": -1, "label": -1, "column": 2, "value": pytest.approx(1),
    }  # fmt: skip
    assert summary["mean_max_softmax"]["value"] == pytest.approx(1)
    assert summary["max_abs_column_sum"]["value"] == pytest.approx(0.9)


def test_identical_examples_have_cosine_1():
    _, summary = rows_of(torch.tensor([[1.0, -2.0, 0.5]]).expand(4, 3), torch.tensor([1, 1, 1, 1]))
    assert summary["cosine"]["value"] == pytest.approx(1)


def test_rows_without_direction_are_left_out():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1e-200, 0.0]], dtype=torch.float64)
    assert mean_pairwise_cosine(rows).item() == pytest.approx((1 + 2 * 0.5**0.5) / 3)
    assert math.isnan(mean_pairwise_cosine(rows[:2]).item())


def test_infinite_logits_are_not_a_number():
    entries, summary = rows_of(torch.tensor([[math.inf, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert math.isnan(entries[0, 0]["value"]) and math.isfinite(entries[1, 0]["value"])
    assert all(math.isnan(row["value"]) for row in summary.values())
