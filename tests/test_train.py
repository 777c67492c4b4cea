"""The loop: what it yields and when, how runs end, and that looking at them changes nothing."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch
from small_runs import TRAIN, collect, config, job, make, names, quadrants, torch_as_it_was, training

from bnstudy.config.schema import total_steps
from bnstudy.store.runs import Store
from bnstudy.training.observer import Rows
from bnstudy.training.position import Mark, Position
from bnstudy.training.signals import Left
from bnstudy.training.train import EVALUATION_BATCH, Training

LOOKS = {"at": [0], "every_steps": 2, "at_end": True, "at_divergence": True}
PROBES = {"weights": LOOKS, "activation_moments": LOOKS, "logit_gradient": LOOKS | {"on": "train_batch"}}
WILD = {"norm": {"name": "none"}, "optim__lr": 1e9, "optim__momentum": 0.0}  # its second loss is above any bound


@pytest.fixture(autouse=True)
def _torch():
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def same(a, b):
    """Equal to the bit; NaN is NaN."""
    return a.keys() == b.keys() and all(repr(a[key]) == repr(b[key]) for key in a)


def bits(engine):
    return {key: value.numpy().tobytes() for key, value in engine.state().items()}


@pytest.mark.parametrize(
    ("changes", "outcome", "status"),
    [
        ({"train__steps": 40}, "trained", "completed"),
        ({"train__steps": 40, "optim__lr": 0.0}, "stalled", "completed"),
        ({"train__steps": 0}, None, "completed"),
        ({"train__steps": 40, **WILD}, "diverged", "diverged"),
        ({"train__divergence_loss": 1e-3}, "diverged", "diverged"),
    ],
)
def test_outcomes(tmp_path, root, changes, outcome, status):
    one = config(root, **changes)
    (ended,) = make([one], tmp_path)
    assert ended.state == status
    manifest = Store(tmp_path).manifest(ended.run_id)
    assert (manifest["outcome"], manifest["status"]) == (outcome, status)
    if outcome == "diverged":
        steps = Store(tmp_path).table(ended.run_id, "steps")
        step = manifest["diverged_step"]
        assert step == manifest["num_steps"] == steps["step"].max() == len(steps) - 1
        last = steps["loss"].iloc[-1]
        assert not last <= one.train.divergence_loss
        assert (steps["loss"].iloc[:-1] <= one.train.divergence_loss).all()
        assert set(manifest["final"].values()) == {None}
        assert "epochs" not in manifest["tables"]
    else:
        assert manifest["diverged_step"] is None and manifest["num_steps"] == one.train.steps
    if outcome == "trained":
        assert manifest["final"]["train_accuracy"] > 0.9 and manifest["final"]["test_accuracy"] > 0.9
    if outcome == "stalled":
        assert manifest["final"]["train_accuracy"] < 0.3


def test_rows_of_steps_and_epochs(root):
    loop, _ = training([config(root, train__steps=10)])
    found = collect(loop)
    steps, epochs = found[0, "steps"], found[0, "epochs"]
    assert steps["step"] == list(range(10))
    assert steps["lr"] == pytest.approx([0.5] * 5 + [0.05] * 5)
    assert all(0 <= a <= 1 for a in steps["accuracy"]) and all(n > 0 for n in steps["gradient_norm"])
    assert (epochs["epoch"], epochs["step"]) == ([1, 2, 3], [4, 8, 10])  # the last one is cut short
    assert epochs["lr"] == pytest.approx([0.5, 0.05, 0.05])  # of the epoch's last update
    sizes = [26, 26, 26, TRAIN - 78] * 3
    for row, (start, stop) in enumerate([(0, 4), (4, 8), (8, 10)]):
        for name in ("loss", "accuracy"):
            weighed = sum(steps[name][i] * sizes[i] for i in range(start, stop)) / sum(sizes[start:stop])
            assert epochs[f"train_{name}"][row] == pytest.approx(weighed)
    assert loop.position.final[0]["test_accuracy"] == epochs["test_accuracy"][-1]


@pytest.mark.parametrize(("shape", "batch", "size"), [((3, 32, 32), 8, 1000), ((1, 28, 28), 8, 1000),
                                                      ((3, 64, 64), 8, 250), ((3, 224, 224), 8, 20),
                                                      ((3, 224, 224), 64, 64), ((3, 32, 32), 2000, 1000)])  # fmt: skip
def test_large_images_are_evaluated_in_smaller_parts(root, shape, batch, size):
    loop, _ = training([config(root, data__batch_size=25)])
    loop._loader.shape = shape
    assert loop._loader.fitting(EVALUATION_BATCH, batch) == size


def test_budgets(root):
    in_epochs = config(root, train__steps=None, train__epochs=3)
    assert total_steps(in_epochs, 4) == 12
    assert total_steps(config(root, train__epochs=3), 4) == 9  # steps take the place of epochs
    loop, _ = training([in_epochs])
    assert len(collect(loop)[0, "steps"]["step"]) == 12


def test_evaluation_may_be_rarer_but_the_last_epoch_is_always_evaluated(root):
    loop, _ = training([config(root, train__steps=None, train__epochs=5, train__evaluate_every_epochs=2)])
    epochs = collect(loop)[0, "epochs"]
    assert [not math.isnan(x) for x in epochs["test_loss"]] == [False, True, False, True, True]
    assert [not math.isnan(x) for x in epochs["test_accuracy"]] == [False, True, False, True, True]
    assert not any(map(math.isnan, epochs["train_accuracy"]))


@pytest.mark.parametrize("norm", ["batch", "batch_scratch", "none"])
@pytest.mark.parametrize("num_runs", [1, 2])
def test_probes_leave_no_trace(root, norm, num_runs):
    """Weights, momentum, running statistics, curves, and the random state: to the bit."""
    results = []
    for probes in ({}, PROBES):
        rates = [0.5, 0.1][:num_runs]
        loop, engine = training([config(root, norm={"name": norm}, probes=probes, optim__lr=lr) for lr in rates])
        torch.manual_seed(0)
        found = collect(loop)
        curves = {key: value for key, value in found.items() if key[1] in ("steps", "epochs")}
        results.append((curves, bits(engine), torch.get_rng_state()))
        assert {name for _, name in found} == {"steps", "epochs", *probes}
    (off, state_off, random_off), (on, state_on, random_on) = results
    assert same(off, on) and state_off == state_on and torch.equal(random_off, random_on)


def test_probes_look_when_they_are_asked_to(root):
    loop, _ = training([config(root, probes=PROBES)])
    found = collect(loop)
    for name in PROBES:
        assert sorted(set(found[0, name]["step"])) == [0, 2, 4, 6, 8, 9]


@pytest.mark.parametrize("num_runs", [1, 3])
def test_at_divergence_a_probe_sees_the_weights_that_diverged(root, num_runs):
    plan = {"at_divergence": True}
    configs = [config(root, **WILD, probes={"weights": plan}) for _ in range(num_runs)]
    for index in range(1, num_runs):
        configs[index].optim.lr = 0.01 * index
    loop, engine = training(configs)
    found = collect(loop)
    step = loop.position.diverged_step[0]
    assert loop.position.diverged_step[1:] == [None] * (num_runs - 1)
    seen = found[0, "weights"]
    assert step is not None and set(seen["step"]) == {step} and found[0, "steps"]["step"][-1] == step
    weights = engine.network(0).get_parameter("classifier.weight")
    row = next(i for i, layer in enumerate(seen["layer"]) if layer == "classifier" and seen["quantity"][i] == "mean")
    assert seen["value"][row] == pytest.approx(weights.double().mean().item())
    assert all(len(found[run, "steps"]["step"]) == 9 for run in range(1, num_runs))
    assert not any(name == "weights" for run, name in found if run)


def test_nothing_is_seen_twice_at_divergence(root):
    """A run that diverges at a step at which its probe has just looked."""
    plan = {"at": [0], "at_divergence": True}
    loop, _ = training([config(root, train__divergence_loss=1e-3, probes={"logit_gradient": plan})])
    twice = collect(loop)[0, "logit_gradient"]
    once, _ = training([config(root, train__steps=0, probes={"logit_gradient": plan})])
    assert loop.position.diverged_step == [0]
    assert same(twice, collect(once)[0, "logit_gradient"])


@pytest.mark.parametrize("probes", [{}, PROBES])
def test_a_device_that_is_looked_at_seldom_yields_the_same_rows(root, monkeypatch, probes):
    """As on a GPU, where divergence is noticed late. One of the runs diverges, and the probes look at dead runs not."""
    configs = [config(root, **WILD | {"optim__lr": lr}, probes=probes) for lr in (0.1, 1e9, 0.2)]
    loop, engine = training(configs)
    at_once = collect(loop)
    monkeypatch.setattr(Training, "_sees_divergence", lambda self: False)
    late, late_engine = training(configs)
    assert same(collect(late), at_once)
    assert late.position.diverged_step == loop.position.diverged_step != [None] * 3
    assert bits(late_engine) == bits(engine)


def test_a_group_ends_when_its_last_run_diverges(root):
    loop, _ = training([config(root, **WILD | {"optim__lr": lr}) for lr in (1e9, 1e12)])
    found = collect(loop)
    assert loop.finished and None not in loop.position.diverged_step
    assert max(map(len, (found[run, "steps"]["step"] for run in (0, 1)))) < 9


def test_a_group_whose_first_looks_are_broken_off_looks_at_each_run_once(root):
    """One run was looked at and saved, the other is looked at when training resumes."""
    configs = [config(root, probes={"weights": {"at": [0]}}, optim__lr=lr) for lr in (0.1, 0.2)]
    looked = []

    @contextmanager
    def leavable(what):
        looked.append(what)
        if len(looked) == 2:
            raise Left
        yield what

    made, _ = training(configs)
    with pytest.raises(Left):
        list(made.rows(lambda: False, leavable))
    assert made.position.looks == [None, "due"]
    resumed, _ = training(configs)
    resumed.position = Position(**asdict(made.position))
    seen = [event for event in resumed.rows(lambda: False) if isinstance(event, Rows) and event.table == "weights"]
    assert [event.run for event in seen] == [1]


def test_a_look_that_is_left_at_its_very_end_is_taken_again(root):
    """A request to stop may come between the last row and the end of the block."""

    @contextmanager
    def leavable(what):
        yield what
        raise Left

    made, _ = training([config(root, probes={"weights": {"at": [0]}})])
    with pytest.raises(Left):
        list(made.rows(lambda: False, leavable))
    assert made.position.looks == ["due"]


def test_marks_follow_everything_up_to_them(root):
    loop, _ = training([config(root, probes=PROBES)])
    seen: list[int] = []
    marks = []
    for event in loop.rows(lambda: loop.position.step % 3 == 0):
        if isinstance(event, Mark):
            marks.append(event.step)
            assert max(seen) <= event.step
        else:
            seen.append(event.step)
    assert marks == [3, 4, 6, 8, 9]  # asked for, and every epoch's end


@pytest.mark.parametrize("model", [{"name": "mlp", "hidden": "16-8"}, {"name": "resnet", "depth": 8}])
def test_same_configuration_and_seed_same_bits(root, model):
    size = {"data__num_train": 40, "data__batch_size": 10, "train__steps": 3} if model["name"] == "resnet" else {}
    ends = []
    for seed in (3, 3, 4):
        loop, engine = training([config(root, model=model, seed=seed, data__augment=True, **size)])
        ends.append((collect(loop), bits(engine)))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert ends[0][1] != ends[2][1]


def test_runs_side_by_side_begin_as_they_would_alone(root):
    rates = (0.5, 0.1, 0.02)
    together, _ = training([config(root, optim__lr=lr) for lr in rates])
    stacked = collect(together)
    for run, lr in enumerate(rates):
        loop, _ = training([config(root, optim__lr=lr)])
        alone = collect(loop)
        for name in ("loss", "gradient_norm"):
            assert stacked[run, "steps"][name] == pytest.approx(alone[0, "steps"][name], rel=1e-3)
            assert stacked[run, "steps"][name][0] == pytest.approx(alone[0, "steps"][name][0], rel=1e-5)
        assert stacked[run, "steps"]["lr"] == alone[0, "steps"]["lr"]


def test_a_probe_batch_beyond_the_data_fails_the_run_in_words(tmp_path, root):
    one = config(root, probes={"weights": {"at": [0], "batch_size": 1000}})
    (ended,) = make([one], tmp_path)
    assert ended.state == "failed" and "probe batch 0 of 1000 images" in ended.note
    assert names([one]) == [ended.run_id] == [job(one).run_id]
