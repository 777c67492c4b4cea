"""Any probe on any network: it sees what a plain pass computes, leaves nothing behind, and bad input is named."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from api_runs import batch, own
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torchvision.models import VisionTransformer

import bnstudy
from bnstudy import models, norms, probes
from bnstudy.api import looking
from bnstudy.config import component_files, plugins
from bnstudy.probes.snapshot import READABLE, observe

PROBES = plugins.names("probes")
SMALL = {  # options with which a probe is quick on a network of a few channels
    "gradient_correlation": {"batch_sizes": [4], "num_batches": 2},
    "gradient_noise": {"sizes": [2, 4], "num_divided": [2, 2], "large_size": 8, "num_large": 2},
    "jacobian_coupling": {"sizes": [2], "whole_sizes": [2]},
    "jacobian_density": {"num_examples": 1, "num_steps": 4},
    "jacobian_singular_values": {"num_examples": 1},
    "modes": {"batch_sizes": (4,), "num_training": 1},
}


def everything(network):
    """All that a probe could be given."""
    images, labels = batch(600)
    pixels = images - images.min()
    return {"train": (images, labels), "test": (pixels / pixels.max(), labels), "initial": own().state_dict()}


def trace(network):
    """Everything of a network and its surroundings that the user could notice."""
    return {
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in network.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in network.named_parameters()},
        "layout": {k: (p.stride(), p.data_ptr()) for k, p in network.named_parameters()},
        "mode": {k: m.training for k, m in network.named_modules()},
        "hooks": {k: (len(m._forward_hooks), len(m._forward_pre_hooks)) for k, m in network.named_modules()},
        "rng": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].copy(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def textbook(network, images, labels):
    """Outputs of the layers of `own`, and the gradients of their weights, by a plain pass that clones what it sees."""
    network, seen = copy.deepcopy(network).train(), {}

    def keep(path):
        def hook(_, __, output):
            seen[path] = output.detach().clone()

        return hook

    for path in ("stem", "layers.0.conv1", "layers.0.conv2", "layers.1.conv1", "layers.1.conv2", "head"):
        network.get_submodule(path).register_forward_hook(keep(path))
    functional.cross_entropy(network(images.clone()), labels).backward()
    return seen, {path: network.get_submodule(path).weight.grad for path in seen}


# --- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [True, False])
def test_the_layers_of_a_foreign_network_are_found_in_the_order_of_its_pass(in_place):
    found = bnstudy.layers(own(in_place), batch()[0])
    assert [(layer.depth, layer.name, layer.kind, layer.activation) for layer in found] == [
        (1, "stem", "conv", "act"),
        (2, "layers.0.conv1", "conv", "layers.0.relu"),
        (3, "layers.0.conv2", "conv", "layers.0.norm2"),  # an addition comes before the ReLU
        (4, "layers.1.conv1", "conv", "layers.1.relu"),
        (5, "layers.1.conv2", "conv", "layers.1.norm2"),
        (6, "head", "linear", "head"),
    ]
    assert [layer.block_output for layer in found] == [True, False, False, False, False, False]


def test_in_a_network_without_shortcuts_no_layer_is_marked_and_identities_are_seen_through():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.Tanh(),
        nn.BatchNorm1d(8), nn.Linear(8, 5),
    )  # fmt: skip
    found = bnstudy.layers(network, batch()[0])
    assert [(layer.name, layer.activation) for layer in found] == [("0", "2"), ("5", "7"), ("8", "8")]
    assert not any(layer.block_output for layer in found)


@pytest.mark.parametrize("name", ["resnet", "lenet"])
def test_our_own_networks_say_themselves_what_their_layers_are(name):
    options, shape = ({"depth": 8}, (3, 32, 32)) if name == "resnet" else ({}, (1, 28, 28))
    options = plugins.defaults("models", name) | options
    network = models.build(name, options, norms.Factory("batch", {}), "xavier_uniform", shape, 10, seed=0)
    images, labels = torch.randn(4, *shape), torch.arange(4)
    assert bnstudy.layers(network, images) == network.layers
    with pytest.raises(ValueError, match=r"images of shape .* do not pass the module"):
        bnstudy.layers(network, images[0])
    found = bnstudy.probe(network, images, labels, "activation_moments")
    rows = probes.rows("activation_moments", {}, observe(network, images, labels, reads=READABLE))
    assert found.to_dict("records") == rows


@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_seen_is_what_a_plain_pass_computes(in_place):
    network, (images, labels) = own(in_place), batch()
    outputs, gradients = textbook(network, images, labels)
    found = bnstudy.probe(network, images, labels, "activation_moments", sites=["preactivation"])
    for path, rows in found.groupby("layer"):
        values = outputs[path].double().transpose(0, 1).flatten(1)
        np.testing.assert_allclose(rows["mean"], values.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(rows["variance"], values.var(1, correction=0), rtol=1e-4, atol=1e-6)
    norms_found = bnstudy.probe(network, images, labels, "gradient_norms").set_index("layer")["gradient"]
    for path, gradient in gradients.items():
        assert norms_found[path] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_a_function_takes_a_probes_place():
    network, (images, labels) = own(), batch()

    def spread(snapshot, *, scale=1.0):
        for layer in snapshot.layers:
            yield {"depth": layer.depth, "std": scale * snapshot.activations[layer.depth].std(correction=0).item()}

    before = trace(network)
    found = bnstudy.probe(network, images, labels, spread, scale=2.0)
    assert list(found.columns) == ["depth", "std"] and len(found) == len(bnstudy.layers(network, images))
    assert (found["std"] > 0).all()
    after = trace(network)
    assert torch.equal(before["rng"], after["rng"]) and before["hooks"] == after["hooks"]


@pytest.mark.parametrize("option", ["images", "labels", "name", "layers", "train", "test", "initial"])
def test_a_function_with_an_option_that_would_never_reach_it_is_refused(option):
    probe = eval(f"lambda snapshot, *, {option}=1: []")
    with pytest.raises(ValueError, match=rf"its option {option} .*bnstudy\.probe, .*rename"):
        bnstudy.probe(own(), *batch(), probe)


def test_a_function_s_bound_and_other_options_are_its_own():
    def probe(images, device, train=1):
        yield {"device": device, "train": train}

    found = bnstudy.probe(own(), *batch(), functools.partial(probe, train=2), device="there")
    assert found.to_dict("records") == [{"device": "there", "train": 2}]
    with pytest.raises(ValueError, match=r"probe: its option device .*bnstudy\.Run\.probe"):
        looking.checked_options(probe, {}, bnstudy.Run.probe)


@pytest.mark.parametrize("sizes", [[np.int64(4), np.int64(5)], np.array([4, 5]), range(4, 6), pd.Series([4, 5])])
def test_options_may_be_numpys(sizes):
    network, (images, labels) = own(), batch()
    more: dict[str, Any] = {"train": (images, labels), "num_batches": 2}
    found = bnstudy.probe(network, images, labels, "gradient_correlation", batch_sizes=sizes, **more)
    plain = bnstudy.probe(network, images, labels, "gradient_correlation", batch_sizes=[4, 5], **more)
    pd.testing.assert_frame_equal(found, plain)
    assert len(bnstudy.probe(network, images, labels, "saturation", threshold=np.float32(0.25)))


def test_a_probe_of_what_only_a_run_knows_is_refused():
    with pytest.raises(ValueError, match=r"splits .* which only a run knows: open it with bnstudy\.run"):
        bnstudy.probe(own(), *batch(), "splits")


@pytest.mark.parametrize("name", [name for name in PROBES if name != "splits"])
def test_every_probe_sees_the_same_of_a_network_in_place_as_of_its_twin_and_leaves_no_trace(name):
    network, twin, (images, labels) = own(True), own(False), batch()
    network.layers[0].eval()
    functional.cross_entropy(network(images.clone()), labels).backward()
    network.load_state_dict(own().state_dict())
    before, seen = trace(network), images.clone()
    options = everything(network) | SMALL.get(name, {})
    found = bnstudy.probe(network, images, labels, name, **options)
    torch.testing.assert_close(trace(network), before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(images, seen)
    pd.testing.assert_frame_equal(found, bnstudy.probe(twin, images, labels, name, **options))
    assert list(found) == list(probes.columns(name))
    assert len(found) or name == "linear_region"  # of sigmoids, which these networks do not have


@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        torch.no_grad,
        torch.inference_mode,
    ],
)
def test_looks_are_the_same_whatever_the_process_has_set(surroundings):
    network, (images, labels) = own(), batch()
    further: Any = batch(60)
    shown = functools.partial(bnstudy.probe, network, name="gradient_correlation")
    options: Any = SMALL["gradient_correlation"]
    plain, found = shown(images, labels, train=further, **options), bnstudy.layers(network, images)
    with surroundings():
        images, labels, further = images.clone(), labels.clone(), [each.clone() for each in further]  # made there
        pd.testing.assert_frame_equal(shown(images, labels, train=further, **options), plain)
        assert bnstudy.layers(network, images) == found


def test_a_probe_that_was_edited_since_it_was_imported_is_refused(monkeypatch):
    images, labels = batch()
    bnstudy.probe(own(), images, labels, "gradient_norms")
    monkeypatch.setattr(plugins, "loaded", lambda kind, name: {f"{kind}/{name}.py": "another"})
    with pytest.raises(ValueError, match=r"probes/gradient_norms\.py.* changed since .*restart the kernel"):
        bnstudy.probe(own(), images, labels, "gradient_norms")


def test_columns_have_the_types_that_stored_tables_have():
    found = bnstudy.probe(own(), *batch(), "activation_moments").dtypes.astype(str)
    assert (found["depth"], found["block_output"], found["mean"]) == ("int16", "bool", "float64")
    empty = bnstudy.probe(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), *batch(), "saturation")
    assert empty.empty and list(empty) == list(probes.columns("saturation"))


def test_layers_can_be_named_or_given_whole():
    network, (images, labels) = own(), batch()
    named = bnstudy.probe(network, images, labels, "gradient_norms", layers=["head", "stem"])
    assert list(zip(named["depth"], named["layer"], strict=True)) == [(1, "head"), (2, "stem")]
    some = bnstudy.probe(network, images, labels, "gradient_norms", layers=bnstudy.layers(network, images)[4:])
    assert list(zip(some["depth"], some["layer"], strict=True)) == [(5, "layers.1.conv2"), (6, "head")]
    for names in (np.array(["head", "stem"]), pd.Series(["head", "stem"]), iter(["head", "stem"])):
        given: Any = names
        pd.testing.assert_frame_equal(bnstudy.probe(network, images, labels, "gradient_norms", layers=given), named)
    after_addition = bnstudy.Layer(1, "layers.0.conv2", "conv", "layers.0.relu", block_output=True)
    found = bnstudy.probe(network, images, labels, "activation_moments", layers=[after_addition], sites=["activation"])
    outputs = []
    twin = own(False).train()
    twin.layers[0].register_forward_hook(lambda _, __, output: outputs.append(output.detach().double()))
    twin(images)
    expected = outputs[0].mean((0, 2, 3))  # the block's ReLU ran twice: the second time is this layer's
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-4, atol=1e-6)


def test_networks_on_vectors_and_in_float64_are_seen_too():
    network = nn.Sequential(nn.Linear(7, 4), nn.ReLU(inplace=True), nn.Linear(4, 5)).double()
    found = bnstudy.probe(network, torch.randn(6, 7), torch.arange(6) % 5, "gradient_norms")
    assert list(found["layer"]) == ["0", "2"]


# --- what is refused ------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One convolution in two places."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


class Gives(nn.Module):
    """A network whose outputs are made into something else."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = own(False), change

    def forward(self, x):
        return self.change(self.inner(x))


def tied():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 5))
    network[2].weight = network[1].weight
    return network


def computed():
    return nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(192, 8)), nn.Linear(8, 5))


IMAGES, LABELS = batch()
STEM = bnstudy.Layer(1, "stem", "conv", "act")


@pytest.mark.parametrize(
    "module, parts",
    [
        (Twice(), ["layers: conv", "2 times", "layers=", "'head'"]),
        (tied(), ["layers: 2", "tied", "layers=", "'1', '3'"]),
        (computed(), ["layers: 1", "parametrizations", "layers="]),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)), ["Conv2d", "Linear"]),
        (nn.Linear(8, 5), ["module", "(12, 3, 8, 5)", "logits (12, K)"]),
        (Gives(lambda logits: (logits, logits)), ["module", "tuple", "logits (12, K)"]),
        (Gives(lambda logits: logits[:, :, None]), ["module", "(12, 5, 1)", "logits (12, K)"]),
        (Gives(lambda logits: logits + 0j), ["module", "complex64 of shape (12, 5)", "of floats"]),
        (nn.Sequential(own(), nn.Linear(5, 5, dtype=torch.complex64)), ["parameter 1.weight is torch.complex64"]),
        (own, ["module = function", "torch.nn.Module"]),
    ],
)
def test_a_module_that_cannot_be_looked_at_says_why_and_what_to_pass(module, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.probe(module, IMAGES, LABELS, "gradient_norms")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_single_layer_is_given_in_a_sequence():
    layer, images, labels = nn.Linear(7, 5), torch.randn(4, 7), torch.arange(4)
    with pytest.raises(ValueError, match=r"torch\.nn\.Sequential\(module\)"):
        bnstudy.probe(layer, images, labels, "gradient_norms")
    assert len(bnstudy.probe(nn.Sequential(layer), images, labels, "gradient_norms")) == 1


def transformer():
    """A Vision Transformer of two blocks, whose dense layers but the last give (N, T, C)."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)


CHANNELS = ["activation_moments", "covariate_shift", "moments_along_step", "saturation"]


@pytest.mark.parametrize("name", CHANNELS)
def test_a_probe_of_channels_refuses_tokens_and_names_all_layers_that_have_none(name):
    network = transformer()
    assert len(bnstudy.layers(network, IMAGES)) == 6
    with pytest.raises(ValueError, match=rf"{name} .*mlp\.0 .*\(12, 5, .*layers=\['conv_proj', 'heads\.head'\]"):
        bnstudy.probe(network, IMAGES, LABELS, name, initial=None)
    found = bnstudy.probe(network, IMAGES, LABELS, name, initial=None, layers=["conv_proj", "heads.head"])
    assert len(found) or name == "saturation"  # of ReLUs, which it does not have


@pytest.mark.parametrize("name", [name for name in PROBES if name not in {*CHANNELS, "splits"}])
def test_a_transformer_is_seen_by_every_probe_that_needs_no_channels(name):
    network = transformer()
    options = everything(network) | {"initial": transformer().state_dict()} | SMALL.get(name, {})
    assert len(bnstudy.probe(network, IMAGES, LABELS, name, **options)) or name in ("batch_variance", "linear_region")


def test_a_flattened_output_has_no_channels():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    flat = [bnstudy.Layer(1, "0", "conv", "1"), bnstudy.Layer(2, "2", "linear", "2")]
    with pytest.raises(ValueError, match=r"activation_moments .*at 0 .*\(12, 144\).*layers=\['2'\]"):
        bnstudy.probe(network, IMAGES, LABELS, "activation_moments", layers=flat)
    assert len(bnstudy.probe(network, IMAGES, LABELS, "gradient_norms", layers=flat)) == 2


def test_the_remedy_leaves_out_all_layers_that_do_not_fit():
    first, second = (parametrizations.weight_norm(nn.Linear(inputs, 8)) for inputs in (192, 8))
    network = nn.Sequential(nn.Flatten(), first, second, nn.Linear(8, 5))
    with pytest.raises(ValueError, match=r"layers: 1 has no weight.*layers=\['3'\]"):
        bnstudy.probe(network, IMAGES, LABELS, "gradient_norms")


def test_what_the_message_names_can_be_passed():
    assert list(bnstudy.probe(Twice(), IMAGES, LABELS, "gradient_norms", layers=["head"])["layer"]) == ["head"]
    found = bnstudy.probe(tied(), IMAGES, LABELS, "gradient_norms", layers=["1", "3"])
    assert list(found["layer"]) == ["1", "3"]
    assert len(bnstudy.probe(computed(), IMAGES, LABELS, "gradient_norms", layers=["2"])) == 1


@pytest.mark.parametrize(
    "images, labels, parts",
    [
        (IMAGES.to("meta"), LABELS, ["images are on meta", "module is on cpu", "images.to('cpu')"]),
        (IMAGES, LABELS.to("meta"), ["labels are on meta", "labels.to('cpu')"]),
        (IMAGES[:, :1], LABELS, ["images of shape (12, 1, 8, 8)", "channels"]),
        (IMAGES[:1, :, :1, :1], LABELS[:1], ["images of shape (1, 3, 1, 1)", "training mode"]),
        ((IMAGES * 255).to(torch.uint8), LABELS, ["images = torch.uint8", "images.float() / 255"]),
        (IMAGES.numpy(), LABELS, ["images = ndarray", "tensor"]),
        (IMAGES[:0], LABELS[:0], ["images", "one image or more"]),
        (IMAGES, LABELS[:5], ["labels = torch.int64 of shape (5,)", "(12,)"]),
        (IMAGES, LABELS.float(), ["labels = torch.float32", "int64"]),
        (IMAGES, LABELS + 1, ["labels go from", "to 5", "0 to 4"]),
        (IMAGES, LABELS - 1, ["labels go from -1", "0 to 4"]),
    ],
)
def test_images_and_labels_that_do_not_fit_are_named(images, labels, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.probe(own(), images, labels, "gradient_norms")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    "name, options, parts",
    [
        ("activation_moment", {}, ["probe = 'activation_moment'", "did you mean activation_moments?"]),
        ("activation_moments", {"site": 1}, ["site", "there is no such option", "sites"]),
        ("activation_moments", {"sites": ["middle"]}, ["sites", "middle", "preactivation"]),
        ("gradient_norms", {"layers": ["sten"]}, ["layers = 'sten'", "did you mean stem?"]),
        ("gradient_norms", {"layers": []}, ["layers = []"]),
        ("gradient_norms", {"layers": ["stem", "stem"]}, ["layers", "once"]),
        ("gradient_norms", {"layers": "stem"}, ["layers = 'stem'", "layers=['stem']"]),
        ("gradient_norms", {"layers": [bnstudy.Layer(1, "stem", "conv", "acd")]}, ["'acd'", "did you mean act?"]),
        ("gradient_norms", {"layers": [STEM, bnstudy.Layer(1, "head", "linear", "head")]}, ["depths [1, 1]", "once"]),
        ("gradient_norms", {"layers": [bnstudy.Layer(0, "stem", "conv", "act")]}, ["depths [0]", "from 1"]),
        ("gradient_norms", {"layers": [bnstudy.Layer(1, "stem", "linear", "act")]}, ["stem", "'linear'", "is a conv"]),
        ("gradient_norms", {"layers": [STEM, "head"]}, ["layers = [", "names, or bnstudy.Layer", "not both"]),
        ("gradient_correlation", {}, ["train", "gradient_correlation", "train=(images, labels)"]),
        ("gradient_noise", {}, ["train", "gradient_noise", "train=(images, labels)"]),
        ("modes", {}, ["test", "modes", "test=(images, labels)"]),
        ("shifted_inputs", {"test": (IMAGES, LABELS)}, ["test", "[0, 1]", "normalises"]),
        ("weights", {}, ["initial", "weights", "state_dict", "initial=None"]),
        ("covariate_shift", {}, ["initial", "covariate_shift", "state_dict"]),
        ("modes", {"test": IMAGES}, ["test", "pair"]),
        ("modes", {"test": (IMAGES, LABELS + 9)}, ["test: labels go from", "0 to 4"]),
        ("modes", {"test": (IMAGES[:, :1], LABELS)}, ["test: images of shape (1, 1, 8, 8)", "evaluation", "channels"]),
        ("gradient_noise", {"train": (IMAGES[:, :1], LABELS)}, ["train: images of shape (12, 1, 8, 8)", "channels"]),
        ("gradient_norms", {"train": (IMAGES.int(), LABELS)}, ["train: images = torch.int32"]),
    ],
)
def test_what_a_probe_needs_or_does_not_know_is_named(name, options, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.probe(own(), IMAGES, LABELS, name, **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_test_images_of_another_size_are_taken_where_the_module_takes_them():
    larger = torch.cat([IMAGES, IMAGES], 3)
    train, test = (IMAGES, LABELS), (larger, LABELS)
    found = bnstudy.probe(own(), IMAGES, LABELS, "modes", batch_sizes=[4], train=train, test=test)
    assert found["loss"].notna().any()
    with pytest.raises(ValueError, match=r"test: images of shape \(1, 3, 8, 16\) .*evaluation"):
        bnstudy.probe(transformer(), IMAGES, LABELS, "modes", test=test)


def test_where_initial_weights_are_not_known_what_compares_with_them_is_nan():
    found = bnstudy.probe(own(), IMAGES, LABELS, "weights", initial=None).set_index("quantity")["value"]
    assert found["l2_drift_relative"].isna().all() and found["std"].notna().all()
    same = bnstudy.probe(own(), IMAGES, LABELS, "weights", initial=own().state_dict()).set_index("quantity")["value"]
    assert (same["l2_drift_relative"] == 0).all()


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda state: own(), ["initial = Own", "state_dict()"]),
        (lambda state: {}, ["initial: stem.weight is missing", "(6, 3, 3, 3)", "state_dict()"]),
        (lambda state: state | {"head.bias": torch.zeros(1)}, ["head.bias is torch.float32 of shape (1,)", "(5,)"]),
        (lambda state: state | {"head.bias": np.zeros(5)}, ["head.bias is ndarray", "torch.float32 of shape (5,)"]),
        (lambda state: state | {"head.bias": torch.zeros(5, dtype=torch.int64)}, ["head.bias is torch.int64"]),
    ],
)
def test_initial_weights_that_do_not_fit_are_named(change, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.probe(own(), IMAGES, LABELS, "weights", initial=change(own().state_dict()))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_initial_weights_that_are_the_network_s_own_are_refused():
    """A state dictionary holds the tensors that training changes: the drift was 0."""
    network = own()
    live, copied = network.state_dict(), copy.deepcopy(network.state_dict())
    with torch.no_grad():
        network.stem.weight.mul_(2)
    with pytest.raises(ValueError, match=r"initial: stem\.weight is the module's own .*copy\.deepcopy"):
        bnstudy.probe(network, IMAGES, LABELS, "weights", initial=live)
    found = bnstudy.probe(network, IMAGES, LABELS, "weights", initial=copied, layers=["stem"]).set_index("quantity")
    assert found["value"]["l2_drift_relative"] == pytest.approx(1)


def test_a_network_that_registers_layers_in_another_order_is_refused_where_the_order_matters():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.stem = nn.Linear(6, 5), nn.Conv2d(3, 6, 3)

        def forward(self, x):
            return self.head(self.stem(x).mean((2, 3)))

    network = Backwards()
    assert list(bnstudy.probe(network, IMAGES, LABELS, "gradient_norms")["layer"]) == ["stem", "head"]
    with pytest.raises(ValueError, match=r"layers: .*another order"):
        bnstudy.probe(network, IMAGES, LABELS, "covariate_shift", initial=None)


def test_no_option_of_a_probe_has_the_name_of_a_parameter_here():
    taken = set(inspect.signature(bnstudy.probe).parameters) | set(inspect.signature(bnstudy.Run.probe).parameters)
    assert taken - {"self", "options"} == component_files.TAKEN["probes"]
    assert {name: taken & set(plugins.defaults("probes", name)) for name in PROBES} == {name: set() for name in PROBES}
