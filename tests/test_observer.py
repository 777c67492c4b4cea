"""Probes that look together share a pass where they read the same, and keep no more of a network than they need."""

from __future__ import annotations

import weakref

import pytest
import torch
import yaml
from small_runs import config, quadrants, torch_as_it_was, training

from bnstudy import probes
from bnstudy.config import project
from bnstudy.probes.snapshot import PER_LAYER, observe
from bnstudy.training import observer
from bnstudy.training.engine import host

LARGE = frozenset(PER_LAYER) - {"gradients"}  # of every layer, for every image


@pytest.fixture(autouse=True)
def torch_state():
    with torch_as_it_was():
        yield


@pytest.fixture
def passes(tmp_path, monkeypatch):
    """Takes the looks of these probes before training; returns the reads of each pass, and how many of the tensors that
    earlier ones recorded were still there when it began.
    """

    def take(plans):
        found, recorded = [], list[weakref.ref]()

        def counted(*args, reads, **options):
            found.append((reads, sum(each() is not None for each in recorded)))
            snapshot = observe(*args, reads=reads, **options)
            recorded.extend(weakref.ref(value) for kind in snapshot._values.values() for value in kind.values())
            return snapshot

        monkeypatch.setattr(observer, "observe", counted)
        loop, engine = training([config(quadrants(tmp_path), probes=plans)])
        due = loop._observer.due(0, last=False)
        tables = [rows.table for rows in loop._observer.look(0, engine.network(0), 0, due)]
        assert sorted(tables) == sorted(plans) and recorded
        return found

    return take


def test_a_pass_keeps_two_kinds_of_large_tensors_and_leaves_none_to_the_next(passes):
    """Of every probe at once a ResNet-110 at 128 images took 4431 MiB."""
    together = yaml.safe_load((project.ROOT / "conf" / "probes" / "init.yaml").read_text(encoding="utf-8"))
    found = passes(together)
    assert {name for reads, _ in found for name in reads} >= LARGE
    assert max(len(reads & LARGE) for reads, _ in found) == 2
    assert [left for _, left in found] == [0] * len(found)


def test_probes_that_read_nothing_large_or_the_same_share_a_pass(passes):
    small = {name: {"at": [0]} for name in ("gradient_norms", "logit_gradient", "weights")}
    ((reads, _),) = passes(small)
    assert reads == {"gradients", "logits"}


def test_large_blocks_of_a_look_are_the_systems_own_and_those_of_training_are_kept(passes, monkeypatch):
    host.prepare(torch.get_num_threads())
    within, plain = [], probes.rows

    def rows(*args):
        within.append(host._allocator)
        return plain(*args)

    monkeypatch.setattr(probes, "rows", rows)
    passes({"gradient_norms": {"at": [0]}})
    assert within == [host.RETURNING] and host._allocator is host.KEEPING
