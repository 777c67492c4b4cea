"""What makes no run is refused before any is made, in words; what does is not, and costs next to nothing to look at."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from small_runs import config, job, quadrants, torch_as_it_was

from bnstudy import models, probes
from bnstudy.config import compose, plugins
from bnstudy.store import reduction
from bnstudy.training import preflight


@pytest.fixture(autouse=True)
def _process():
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "resnet", "depth": 21}}, r"^model\.depth = 21: a CIFAR ResNet has 6n \+ 2 layers"),
        ({"model": {"name": "resnet", "shortcut": "none"}}, r"^model\.shortcut = 'none': choose one of"),
        ({"model": {"name": "lenet"}}, r"^model\.padding = 0: images of 8x8 vanish in the network; use 4 or more"),
        ({"model": {"name": "mlp", "hidden": "many"}}, r"^model\.hidden = 'many': give widths"),
        ({"norm": {"name": "batch", "momentum": 2}}, r"^norm\.momentum = 2: "),
        ({"norm": {"name": "batch", "where": "stem*"}}, r"^norm\.where = 'stem\*': 'stem\*' matches none of hidden"),
        (
            {
                "model": {"name": "lenet", "padding": 4, "pooling": "average"},
                "probes": {"saturation": {"at_end": True}},
            },
            r"^probes\.saturation: .*not averaged.*conv1.*~probes\.saturation",
        ),
        ({"data__batch_size": 101}, r"^data\.batch_size = 101: give 1 to 100"),
        ({"data__num_test": 41}, r"^data\.num_test = 41: give 1 to 40, which quadrants has"),
        ({"data__num_train": 101}, r"^data\.num_train = 101: give 1 to 100, which quadrants has"),
        (
            {"data__num_train": 50, "probes": {"weights": {"batch_size": 51}}},
            r"^probes\.weights\.batch_size = 51: .* 50",
        ),
        (
            {"probes": {"loss_along_step": {"options": {"num": 0}}}},
            r"^probes\.loss_along_step\.options: num = 0: give 1",
        ),
        (
            {"probes": {"gradient_noise": {"at_end": True}}},
            r"^probes\.gradient_noise\.options: num_large = 10: the training images make 0 mini-batches",
        ),
        (
            {"probes": {"jacobian_coupling": {"at": [0], "batch_size": 15}}},
            r"^probes\.jacobian_coupling\.options: sizes = \[4, 16\]: give sizes from 2 to the mini-batch's, 15",
        ),
        ({"probes": {"weights": {"at": [99, 98]}}}, r"^probes\.weights\.at = \[99, 98\]: .*never look; give .*at_end"),
        ({"sweep": {"rows": {"steps": "loss ==="}}}, r"^sweep\.rows\.steps = 'loss ===' is no query of its col"),
        (
            {"probes": {"weights": {"at": [0]}}, "sweep": {"rows": {"weights": "depths == 1"}}},
            r"^sweep\.rows\.weights = 'depths == 1' is no query of its columns step, depth",
        ),
        ({"probes": {"weights": {"batch_size": 4}}}, r"^probes\.weights: .*when to look; give"),
        ({"data__batch_size": 1}, r"^data\.batch_size = 1: batch needs two or more in each \(.*more than 1 value"),
        (
            {"data__batch_size": 33},
            r"^data\.num_train = 100 in mini-batches of 33 leaves one image for the last: batch needs two or more",
        ),
        ({"precision": "tf32"}, r"^precision = 'tf32': the CPU has no such unit"),
    ],
)
def test_bad_values_are_named(root, changes, words):
    good = job(config(root))
    preflight.check([good])
    with pytest.raises(ValueError, match=words):
        preflight.check([good, job(config(root, **changes))])


def test_rows_of_tables_are_queries_of_their_columns(root):
    rows = {"epochs": "epoch == epoch.max() or train_loss > 2", "weights": "quantity == 'std' and depth > 1"}
    preflight.check([job(config(root, probes={"weights": {"at": [0]}}, sweep={"rows": rows}))])


def test_the_studys_queries_are_queries_of_their_tables():
    queries = [each for header in compose.headers().values() for each in header.get("rows", {}).items()]
    assert len(queries) > 10
    for table, query in queries:
        columns = preflight.TABLES.get(table) or {"step": "int64", **probes.columns(table)}
        reduction.check_query(table, columns, query)


@pytest.mark.parametrize(
    "changes",
    [
        {"data__batch_size": 1, "norm": {"name": "none"}},
        {"data__batch_size": 1, "norm": {"name": "layer"}},
        {"data__batch_size": 1, "train__steps": 0},
        {"data__batch_size": 33, "train__steps": 3},  # which do not reach the last mini-batch
    ],
)
def test_a_batch_of_one_is_refused_only_where_it_is_made_and_cannot_be_normalized(root, changes):
    preflight.check([job(config(root, **changes))])


@pytest.mark.parametrize(
    ("asked", "num_gpus", "words"),
    [
        ("cuda", 0, "torch sees no GPU here; use runtime.device=cpu"),
        ("cuda:2", 0, "torch sees no GPU here; use runtime.device=cpu"),
        ("cuda:2", 2, r"torch sees 2 GPU\(s\) here; give cuda:0 to cuda:1"),
        ("cuda:999", 1, r"torch sees 1 GPU\(s\) here; give cuda:0 to cuda:0"),
    ],
)
def test_a_device_that_is_not_there(root, monkeypatch, asked, num_gpus, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(ValueError, match=rf"^runtime\.device = '{asked}': {words}"):
        preflight.check([job(config(root, runtime__device=asked))])


def test_runs_that_differ_in_seed_and_rate_are_looked_at_once(root, monkeypatch):
    looked = []
    outline = models.outline

    def counted(name, *arguments, **options):
        looked.append(name)
        return outline(name, *arguments, **options)

    monkeypatch.setattr(models, "outline", counted)
    preflight.check(job(config(root, seed=seed, optim__lr=lr)) for seed in range(5) for lr in (0.1, 0.2))
    assert len(looked) == 1


@pytest.mark.parametrize("error", [TypeError("a bug"), NotImplementedError("not yet")])
def test_what_is_no_values_fault_is_left_to_the_run(root, monkeypatch, error):
    def build(*arguments, **options):
        raise error

    monkeypatch.setattr(plugins.load("models", "mlp"), "build", build)
    preflight.check([job(config(root))])


def test_norms_are_tried_with_as_many_images_as_they_get(root, monkeypatch):
    """A norm that takes planes of any size, and any mini-batch but one of 33."""

    class Picky(torch.nn.Module):
        def forward(self, x):
            if self.training and len(x) == 33:
                raise ValueError("33 are too many")
            return x

    monkeypatch.setattr(plugins.load("norms", "layer"), "build", lambda *_, **__: Picky())
    cnn = {"model": {"name": "resnet", "depth": 8}, "norm": {"name": "layer"}}
    preflight.check([job(config(root, data__batch_size=25, **cnn))])
    with pytest.raises(ValueError, match=r"^data\.batch_size = 33: .*33 are too many"):
        preflight.check([job(config(root, data__batch_size=33, **cnn))])


def test_looking_at_a_configuration_leaves_the_random_state(root):
    before = torch.get_rng_state()
    preflight.check([job(config(root))])
    assert torch.equal(torch.get_rng_state(), before)


class InPlace(torch.nn.Module):
    """Overwrites its input: always, or in training alone."""

    def __init__(self, always):
        super().__init__()
        self.always = always

    def forward(self, x):
        return x.mul_(2.0) if self.always or self.training else x * 2.0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda *_, **__: InPlace(True), r"^norms/layer\.py: it overwrites its input; .* x = x - mean"),
        (lambda *_, **__: InPlace(False), r"^norms/layer\.py: it overwrites its input; .* x = x - mean"),
        (lambda *_, **__: None, r"^norms/layer\.py: build returned None; return a torch\.nn\.Module"),
        (lambda *_, **__: torch.nn.Flatten(), r"^norms/layer\.py: its output is \(2, 16384\) where its input"),
    ],
)
def test_a_norm_that_is_none_is_named_by_its_own_file(root, monkeypatch, build, words):
    monkeypatch.setattr(plugins.load("norms", "layer"), "build", build)
    with pytest.raises(ValueError, match=words):
        preflight.check([job(config(root, model={"name": "resnet", "depth": 8}, norm={"name": "layer"}))])


class Drawing(torch.nn.Module):
    """Leaves its input as it is, and draws in training."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        if self.training:
            self.draw()
        return x


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: torch.rand(1), r"^models/resnet\.py or norms/layer\.py: .*DRAWS = True"),
        (random.random, r"^models/resnet\.py or norms/layer\.py: .*Python's or numpy's .*; draw from torch's"),
        (np.random.rand, r"^models/resnet\.py or norms/layer\.py: .*Python's or numpy's .*; draw from torch's"),
    ],
)
def test_what_draws_random_numbers_says_so(root, monkeypatch, draw, words):
    layer = plugins.load("norms", "layer")
    monkeypatch.setattr(layer, "build", lambda *_, **__: Drawing(draw))
    jobs = [job(config(root, model={"name": "resnet", "depth": 8}, norm={"name": "layer"}))]
    with pytest.raises(ValueError, match=words):
        preflight.check(jobs)
    monkeypatch.setattr(plugins, "flag", lambda *_: True)
    if "DRAWS" in words:
        preflight.check(jobs)


def test_a_network_that_cannot_be_copied_is_named_by_its_file(root, monkeypatch):
    build = plugins.load("models", "mlp").build

    def computed(*arguments, **options):
        network = build(*arguments, **options)
        network.kept = next(network.parameters()) * 2
        return network

    monkeypatch.setattr(plugins.load("models", "mlp"), "build", computed)
    with pytest.raises(ValueError, match=r"^models/mlp\.py: the network cannot be copied.*parametrizations"):
        preflight.check([job(config(root))])
