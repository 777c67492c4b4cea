"""A run's name says what it is, and nothing else changes it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy import config as schema
from bnstudy.config import Config, Data, Optim, ProbePlan, Runtime, Sweep, Tracking, Train
from bnstudy.identity import canonical, run_id

DATA = {"name": "cifar10", "source": "arrays", "sha256": "0" * 64}


def test_golden_names():
    """Names of earlier releases: a new knob at its default must not change them."""
    assert run_id(Config(), DATA) == "resnet110-batch-lr0.1-s0-c1d5ecf0"
    lenet = Config(
        model={"name": "lenet"}, norm={"name": "none"}, optim=Optim(lr=0.3, momentum=0.0), train=Train(steps=7), seed=3
    )
    assert run_id(lenet, DATA).startswith("lenet-none-lr0.3-s3-")


@pytest.mark.parametrize(
    "where",
    [
        {"runtime": Runtime(device="cpu", threads=3, results="elsewhere", data_root="there", engine="plain")},
        {"tracking": Tracking(mode="off", tags=["x"])},
        {"sweep": Sweep(name="init", presets={"quick": ["seed=1"]})},
        {"model": {"name": "resnet", "depth": 110, "shortcut": "projection"}},
        {"norm": {"name": "batch", "where": "*", "eps": 1e-5}},
    ],
)
def test_where_and_defaults_spelled_out_do_not_rename(where):
    assert run_id(dataclasses.replace(Config(), **where), DATA) == run_id(Config(), DATA)


@pytest.mark.parametrize(
    "what",
    [
        {"seed": 1},
        {"optim": Optim(lr=0.2)},
        {"optim": Optim(weight_decay=0.0)},
        {"optim": Optim(warmup=0.1)},
        {"norm": {"name": "none"}},
        {"norm": {"name": "batch", "eps": 1e-3}},
        {"model": {"name": "resnet", "depth": 20}},
        {"data": Data(num_train=1000)},
        {"train": Train(epochs=3)},
        {"init": "kaiming_normal"},
        {"init_scale": 3.0},
        {"precision": "bf16"},
        {"probes": {"weights": ProbePlan(at=[0])}},
    ],
)
def test_what_distinguishes_runs_renames(what):
    assert run_id(dataclasses.replace(Config(), **what), DATA) != run_id(Config(), DATA)


@pytest.mark.parametrize("key", DATA)
def test_other_bytes_are_another_run(key):
    assert run_id(Config(), DATA | {key: "stand-in"}) != run_id(Config(), DATA)


def test_a_budget_in_steps_takes_the_place_of_epochs():
    assert canonical(Config(train=Train(epochs=3, steps=5)), DATA) == canonical(
        Config(train=Train(epochs=9, steps=5)), DATA
    )


@given(st.integers(1, 10**6))
def test_whole_numbers_and_floats_are_one_number(value):
    """YAML's `lr: 1` and `lr: 1.0` are one learning rate."""
    from_yaml = schema.from_dict({"optim": {"lr": value}})
    assert run_id(from_yaml, DATA) == run_id(Config(optim=Optim(lr=float(value))), DATA)


def test_round_trip_through_a_manifest():
    config = Config(probes={"weights": ProbePlan(at=[0, 3], at_end=True)}, data=Data(num_train=512), seed=4)
    again = schema.from_dict(schema.to_dict(config, identity_only=True))
    assert run_id(again, DATA) == run_id(config, DATA)
