"""Every wrong value is refused with its key, itself and a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.config.schema import Config, from_dict, to_dict

NO_DEVICES = ("tpu", "cudax", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:1 ", "cuda0", "Cuda", "cpu:0", "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optim": {"lr": -1.0}}, ["optim.lr", "-1.0", "0"]),
        ({"optim": {"lr": float("nan")}}, ["optim.lr", "nan"]),
        ({"optim": {"lr": "fast"}}, ["optim.lr", "fast", "a number"]),
        ({"optim": {"lrr": 0.1}}, ["optim.lrr", "no such key", "lr"]),
        ({"optim": {"momentum": 1.0}}, ["optim.momentum", "0.9"]),
        ({"optim": {"milestones": [0.75, 0.5]}}, ["optim.milestones", "[0.5, 0.75]"]),
        ({"optim": {"milestones": 0.5}}, ["optim.milestones", "list"]),
        ({"data": {"batch_size": 0}}, ["data.batch_size", "1 or more"]),
        ({"data": {"batch_size": 2.5}}, ["data.batch_size", "2.5", "a whole number"]),
        ({"data": {"batch_size": True}}, ["data.batch_size", "True"]),
        ({"data": {"num_train": 5}}, ["data.num_train", "mini-batch"]),
        ({"data": {"name": "../secrets"}}, ["data.name", "../secrets"]),
        ({"data": {"normalise": "zca"}}, ["data.normalise", "channel", "unit"]),
        ({"data": 3}, ["data", "mapping"]),
        ({"model": {"name": "vgg"}}, ["model.name", "vgg", "resnet"]),
        ({"model": {}}, ["model.name", "missing"]),
        ({"model": {"name": "resnet", "deep": 3}}, ["model.deep", "no such option", "depth"]),
        ({"model": {"name": "resnet", "depth": "110"}}, ["model.depth", "'110'", "a whole number, such as 110"]),
        ({"norm": {"name": "batch", "eps": "tiny"}}, ["norm.eps", "tiny", "a number"]),
        ({"norm": {"name": "batchnorm"}}, ["norm.name", "batchnorm", "batch"]),
        ({"init": "zeros"}, ["init", "zeros", "xavier_uniform"]),
        ({"precision": "fp8"}, ["precision", "fp8", "bf16"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"train": {"steps": -5}}, ["train.steps", "-5"]),
        ({"runtime": {"hang_minutes": 0.0}}, ["runtime.hang_minutes", "0.0", "above 0"]),
        ({"train": {"divergence_loss": 0.0}}, ["train.divergence_loss", "1e3"]),
        ({"probes": {"colour": {"at": [0]}}}, ["probes.colour", "weights"]),
        ({"probes": {"weights": {"when": 0}}}, ["probes.weights.when", "every_epochs"]),
        ({"probes": {"weights": {"every_epochs": 0}}}, ["probes.weights.every_epochs", "1 or more"]),
        ({"probes": {"weights": {"on": "sunday"}}}, ["probes.weights.on", "probe_batch"]),
        ({"probes": {"weights": {"options": {"depth": 3}}}}, ["probes.weights.options.depth", "no such option"]),
        ({"runtime": {"engine": "warp"}}, ["runtime.engine", "auto"]),
        *(({"runtime": {"device": name}}, ["runtime.device", name, "cuda:N"]) for name in NO_DEVICES),
        (
            {"probes": {"gradient_correlation": {"options": {"batch_sizes": [1, "x"]}}}},
            ["batch_sizes", "'x'", "[1, 16"],
        ),
        ({"probes": {"gradient_correlation": {"options": {"batch_sizes": [2.5]}}}}, ["batch_sizes", "2.5", "[1, 16"]),
        ({"tracking": {"mode": "always"}}, ["tracking.mode", "offline"]),
        ({"surprise": 1}, ["surprise", "no such key"]),
        ({"runtime": {"stand_in": True}}, ["runtime.stand_in", "runtime.synthetic"]),
        ({"optim": "adam"}, ["optim", "adam", "SGD", "lr"]),
    ],
)
def test_bad_values_are_named(values, words):
    with pytest.raises(ValueError) as caught:
        from_dict(values)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices(device):
    assert from_dict({"runtime": {"device": device}}).runtime.device == device


def test_defaults_are_valid():
    assert from_dict(to_dict(Config())) == Config()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
keys = [f"{group}.{key}" for group, value in to_dict(Config()).items() if isinstance(value, dict) for key in value]


@given(key=st.sampled_from([*keys, *to_dict(Config())]), value=plain)
def test_any_value_anywhere_is_a_config_or_a_value_error_naming_the_key(key, value):
    group, _, leaf = key.partition(".")
    values = {group: {leaf: value}} if leaf else {group: value}
    if group in ("model", "norm") and leaf:
        values[group].setdefault("name", "resnet" if group == "model" else "batch")
    try:
        from_dict(values)
    except ValueError as error:
        assert group in str(error)
