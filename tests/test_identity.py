"""A run's name says what it is, and nothing else changes it."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.config import compose, identity, plugins, project, schema
from bnstudy.config.identity import canonical, run_id
from bnstudy.config.schema import Config, Data, Optim, ProbePlan, Runtime, Sweep, Tracking, Train
from bnstudy.store import status

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
        {"probes": {"weights": ProbePlan(at=[0])}},
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
    ],
)
def test_what_distinguishes_runs_renames(what):
    assert run_id(dataclasses.replace(Config(), **what), DATA) != run_id(Config(), DATA)


@pytest.mark.parametrize("key", DATA)
def test_other_bytes_are_another_run(key):
    assert run_id(Config(), DATA | {key: "synthetic"}) != run_id(Config(), DATA)


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
    again = schema.from_dict(schema.resolved(config))
    assert run_id(again, DATA) == run_id(config, DATA)
    assert identity.differences(schema.resolved(config), again) == []


def test_the_reference_lists_every_default_that_enters_a_meaning():
    """A default that is new or changed has to be said: a new key gets its entry in reference.json, and its value there
    stays for ever; the new value of a changed default is listed there under `changed`."""
    reference, now = dict(identity.reference()), identity.current_defaults()
    changed = reference.pop("changed")
    assert identity.flat(reference) | changed == identity.flat(now)


@pytest.mark.parametrize(
    ("key", "then", "now", "config"),
    [
        ("optim.weight_decay", 1e-4, 5e-4, {}),
        ("train.divergence_loss", 1e3, 1e4, {}),
        ("norm.size", 32.0, 16.0, {"norm": {"name": "ghost_batch"}}),
        ("model.pooling", "max", "avg", {"model": {"name": "lenet"}}),
    ],
)
def test_a_changed_default_is_another_run_and_is_named(key, then, now, config, monkeypatch):
    former = run_id(dataclasses.replace(Config(), **config), DATA)
    section, option = key.split(".")
    if section in ("optim", "train"):
        monkeypatch.setattr(identity, "resolved", _with(schema.resolved, section, option, now))
    else:
        name, kind = config[section]["name"], f"{section}s"
        before = plugins.defaults
        monkeypatch.setattr(
            plugins,
            "defaults",
            lambda k, n: before(k, n) | ({option: now} if (k, n) == (kind, name) else {}),
        )
    changed = dataclasses.replace(Config(), **config)
    assert run_id(changed, DATA) != former
    assert identity.changed_defaults(changed) == [identity.Difference(key, then, now)]
    if section not in ("optim", "train"):
        assert run_id(identity.with_former_defaults(changed, identity.changed_defaults(changed)), DATA) == former


def _with(resolve, section, option, value):
    def resolved(config):
        values = resolve(config)
        return values | {section: values[section] | {option: value}}

    return resolved


def test_every_option_of_a_users_own_component_enters_the_name(monkeypatch):
    """Nobody froze its defaults, so that a changed one is another run without being told."""
    before = plugins.defaults
    own = {"strength": 1.0}
    monkeypatch.setattr(plugins, "defaults", lambda k, n: own if (k, n) == ("norms", "mine") else before(k, n))
    config = dataclasses.replace(Config(), norm={"name": "mine"})
    first = run_id(config, DATA)
    own = {"strength": 2.0}
    assert run_id(config, DATA) != first


def test_differences_know_keys_that_were_introduced_since():
    then = schema.resolved(Config())
    del then["optim"]["warmup"]  # a run of before there was one: its reference, no warm-up, is what it did
    assert identity.differences(then, Config()) == []
    found = identity.differences(then, Config(optim=Optim(warmup=0.1)))
    assert found == [identity.Difference("optim.warmup", 0.0, 0.1)]


def test_the_published_runs_have_the_names_that_their_sweeps_give_them_now():
    """So that a sweep finds what is published: every published run is one that the sweep asks for."""
    tables = project.ROOT / "results" / "tables"
    for sweep in ("init", "lenet_lr_grid", "textbook_folding", "noise_training"):
        runs = pd.read_parquet(tables / sweep / "runs.parquet")
        seen = runs.drop_duplicates("data").itertuples()
        sources = {
            str(r.data): {"name": str(r.data), "source": str(r.data_source), "sha256": str(r.data_sha256)} for r in seen
        }
        asked = {run_id(config, sources[config.data.name]) for config in compose.expand(sweep, "full")}
        assert set(runs["run_id"].astype(str)) <= asked, sweep


@pytest.mark.parametrize("probe", plugins.names("probes"))
def test_no_default_of_a_probe_is_taken_for_a_changed_one(probe):
    """A tuple here is a list in the reference: published tables would be trained anew."""
    changed = [key for key in identity.reference()["changed"] if key.startswith(f"probes.{probe}.")]
    assert status.has_changed_default(probe, ProbePlan(at=[0])) == bool(changed)
