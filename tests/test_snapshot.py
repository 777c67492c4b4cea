"""A snapshot shows what the network computes, to the bit, and training does not notice it."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import Block, look, make_loader, make_network
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.models.layers import Layer, memory_format
from bnstudy.probes.snapshot import PER_LAYER, READABLE, full_precision, observe


def real_network(name, norm, **options):
    """ResNet-8 on 3x32x32 or LeNet on 1x28x28, as experiments have them."""
    options = plugins.defaults("models", name) | options
    shape = (3, 32, 32) if name == "resnet" else (1, 28, 28)
    return models.build(name, options, norms.Factory(norm, {}), "xavier_uniform", shape, 10, seed=0), shape


def batch(shape, num=6, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(num, *shape, generator=source), torch.randint(10, (num,), generator=source)


def plain_pass(network, images, labels):
    """What a snapshot must show, by a textbook pass on a copy, cloned the moment it is there."""
    network = copy.deepcopy(network).train()
    seen: dict = {name: {} for name in PER_LAYER}
    outputs = {}

    def ends(layer):
        def hook(_, inputs, output):
            seen["inputs"][layer.depth] = inputs[0].detach().clone()
            seen["preactivations"][layer.depth] = output.detach().clone()
            output.retain_grad()
            outputs[layer.depth] = output

        return hook

    def after(layer):
        def hook(_, __, output):
            seen["activations"][layer.depth] = output.detach().clone()

        return hook

    for layer in network.layers:
        network.get_submodule(layer.name).register_forward_hook(ends(layer))
        network.get_submodule(layer.activation).register_forward_hook(after(layer))
    logits = network(images)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    for layer in network.layers:
        seen["output_gradients"][layer.depth] = outputs[layer.depth].grad
        seen["gradients"][layer.depth] = network.get_submodule(layer.name).weight.grad
    return seen, logits.detach(), loss.item()


@pytest.mark.parametrize("name, options", [("resnet", {"depth": 8}), ("lenet", {}), ("lenet", {"pooling": "average"})])
@pytest.mark.parametrize("norm", ["none", "batch", "batch_scratch"])
def test_it_shows_what_a_plain_pass_computes(name, options, norm):
    network, shape = real_network(name, norm, **options)
    network = network.double()
    images, labels = batch(shape)
    expected, logits, loss = plain_pass(network, images.double(), labels)
    seen = observe(network, images, labels, reads=READABLE)
    assert seen.loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(seen.logits_NK, logits, rtol=1e-10, atol=1e-12)
    for quantity in PER_LAYER:
        kept = getattr(seen, quantity)
        assert list(kept) == [layer.depth for layer in network.layers]
        for depth, values in expected[quantity].items():
            torch.testing.assert_close(kept[depth], values, rtol=1e-9, atol=1e-12, msg=f"{quantity} of layer {depth}")


def test_any_choice_of_reads_gives_the_same_numbers():
    network, loader = make_network(), make_loader()
    everything = look(network, loader)
    for name in PER_LAYER:
        one = look(network, loader, reads={name})
        for depth, values in getattr(one, name).items():
            assert torch.equal(values, getattr(everything, name)[depth])


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_not_read_goes_as_gradients_come(kept):
    """All preactivations of a ResNet-110 are half a gigabyte, their gradients as much."""
    network, shape = real_network("resnet", "batch", depth=8)
    outputs, left = list[Any](), list[list[bool]]()

    def note(_, __, output):
        outputs.append(StorageWeakRef(output.untyped_storage()))
        if len(outputs) == 1:  # whose gradient is the last to come
            output.register_hook(lambda _: left.append([not each.expired() for each in outputs]))

    for layer in network.layers[:-1]:
        network.get_submodule(layer.name).register_forward_hook(note)
    images, labels = batch(shape)
    observe(network, images, labels, reads={"output_gradients"} | ({"preactivations"} if kept else set()))
    assert left == [[kept] * len(outputs)]


def test_of_a_layer_that_a_pass_calls_twice_the_last_call_is_shown():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.classifier = nn.Linear(12, 12), nn.Linear(12, 3)
            self.layers = (Layer(1, "dense", "linear", "dense"), Layer(2, "classifier", "linear", "classifier"))

        def forward(self, images):
            return self.classifier(self.dense(torch.sin(self.dense(images.flatten(1)))))

    torch.manual_seed(0)
    network, images, labels = Twice(), torch.randn(5, 3, 2, 2), torch.arange(5) % 3
    seen = observe(network, images, labels, reads={"preactivations", "output_gradients"})
    output = seen.preactivations[1].requires_grad_()
    functional.cross_entropy(network.classifier(output), labels).backward()
    torch.testing.assert_close(seen.output_gradients[1], output.grad)


def test_reading_what_was_not_observed_names_the_remedy():
    seen = look(make_network(), make_loader(), reads={"logits"})
    with pytest.raises(LookupError, match="gradients was not observed, only logits: name it in the probe's READS"):
        _ = seen.gradients
    with pytest.raises(LookupError, match="gradients"):
        seen.displaced(0.1)
    with pytest.raises(ValueError, match=r"'hessian'.*a snapshot can keep"):
        look(make_network(), make_loader(), reads={"hessian"})


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        look(make_network(), make_loader(), reads=()).loss = 0.0


def test_logit_gradient_is_that_of_autograd():
    network, loader = make_network().double(), make_loader()
    seen = look(network, loader, reads={"logits"})
    logits = seen.logits_NK.clone().requires_grad_()
    functional.cross_entropy(logits, seen.labels_N).backward()
    torch.testing.assert_close(seen.logit_gradient_NK, logits.grad)


def test_logit_gradient_keeps_its_direction_where_softmax_saturates():
    network, loader = make_network("none"), make_loader()
    with torch.no_grad():
        network.classifier.bias.copy_(torch.tensor([60.0, 0, 0, 0, 0]))
    loader.labels = torch.zeros_like(loader.labels)
    row = look(network, loader, reads={"logits"}).logit_gradient_NK[0]
    assert row[0] < 0  # 1 - p alone would be 0
    assert row.sum().abs() < 1e-12 * row.abs().sum()


# --- further passes at the same or displaced weights ---------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_displaced_is_a_plain_gradient_step(norm):
    network, loader = make_network(norm).double(), make_loader()
    seen = look(network, loader)
    stepped = copy.deepcopy(network).train()
    images, labels = loader.images[:6].double(), loader.labels[:6]
    functional.cross_entropy(stepped(images), labels).backward()
    with torch.no_grad():
        for parameter in stepped.parameters():
            parameter -= 0.3 * parameter.grad
    expected, _, loss = plain_pass(stepped, images, labels)
    there = seen.displaced(0.3, reads={"activations"})
    assert there.loss == pytest.approx(loss, rel=1e-12)
    for depth, values in expected["activations"].items():
        torch.testing.assert_close(there.activations[depth], values)
        torch.testing.assert_close(there.weights[depth], stepped.get_submodule(network.layers[depth - 1].name).weight)


def test_a_step_of_what_comes_before_a_layer_leaves_it_and_what_follows():
    network, (images, labels) = make_network(), make_loader().probe_batch(6)
    seen = observe(network, images, labels, reads={"gradients"})
    depth = 3
    there = seen.after(0.1, depth, {"inputs", "gradients"})
    moved = copy.deepcopy(network)
    before_it = [m for m in ("stem", "stem_norm", "blocks.0.conv1", "blocks.0.norm1")]
    loss = functional.cross_entropy(moved.train()(images), labels)
    loss.backward()
    with torch.no_grad():
        for path in before_it:
            for p in moved.get_submodule(path).parameters():
                p -= 0.1 * p.grad
    expected = observe(moved, images, labels, reads={"inputs", "gradients"})
    torch.testing.assert_close(there.inputs[depth], expected.inputs[depth])
    torch.testing.assert_close(there.gradients[depth], expected.gradients[depth])
    assert torch.equal(there.weights[depth], seen.weights[depth]) and not torch.equal(there.weights[1], seen.weights[1])


def test_at_start_is_the_network_that_training_began_with():
    first, now = make_network(seed=3), make_network()
    images, labels = make_loader().probe_batch(6)
    seen = observe(now, images, labels, reads=set(), initial=first.state_dict()).at_start({"inputs"})
    expected = observe(first, images, labels, reads={"inputs"})
    assert seen is not None and seen.loss == expected.loss
    assert all(torch.equal(seen.inputs[depth], values) for depth, values in expected.inputs.items())
    assert observe(now, images, labels, reads=set()).at_start({"inputs"}) is None


def test_passes_do_not_depend_on_those_before():
    seen = look(make_network(), make_loader())
    weights = {depth: w.clone() for depth, w in seen.weights.items()}
    first = seen.gradients_on(seen.images_NCHW, seen.labels_N)
    there = seen.displaced(5.0).loss
    assert seen.displaced(0.0).loss == seen.loss
    assert seen.displaced(5.0).loss == there != seen.loss
    again = seen.gradients_on(seen.images_NCHW, seen.labels_N)
    for depth, gradient in seen.gradients.items():
        assert torch.equal(first[depth], again[depth]) and torch.equal(seen.weights[depth], weights[depth])
        torch.testing.assert_close(first[depth], gradient)


def test_batches_are_the_feeds_and_end_where_it_ends():
    loader = make_loader(24)
    seen = look(make_network(), loader)
    found = list(seen.batches(7, 8))
    assert len(found) == 3
    for index, (images, labels) in enumerate(found):
        assert torch.equal(images, loader.images[7 * index : 7 * index + 7])
        assert torch.equal(labels, loader.labels[7 * index : 7 * index + 7])
    with pytest.raises(LookupError, match="without a loader"):
        next(observe(make_network(), loader.images, loader.labels, reads=()).batches(1, 1))


@pytest.mark.parametrize("name, options", [("resnet", {"depth": 8}), ("lenet", {})])
@pytest.mark.parametrize("norm", ["none", "batch", "batch_scratch"])
@pytest.mark.parametrize("fate", ["sound", "dead", "diverged"])
def test_batch_norm_couples_examples_and_nothing_else_does(name, options, norm, fate):
    network, shape = real_network(name, norm, **options)
    with torch.no_grad():
        for parameter in network.parameters() if fate != "sound" else ():
            parameter.fill_(0.0 if fate == "dead" else float("nan"))
    seen = observe(network, *batch(shape), reads=())
    assert seen.couples_examples() == (norm != "none")


def test_initial_weights_are_those_of_the_state_dictionary():
    network, loader = make_network(), make_loader()
    assert look(network, loader).initial_weights is None
    initial = make_network(seed=3).state_dict()
    assert torch.equal(look(network, loader, initial=initial).initial_weights[2], initial["blocks.0.conv1.weight"])


# --- no trace ------------------------------------------------------------------------------------------------------


def trace(network):
    """Everything of a network and its surroundings that training could notice."""
    named = list(network.named_modules())
    return {
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in network.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in network.named_parameters()},
        "layout": {k: (p.stride(), p.data_ptr()) for k, p in network.named_parameters()},
        "mode": {k: m.training for k, m in named},
        "hooks": {k: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for k, m in named},
        "rng": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].copy(),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observing_leaves_no_trace_in_the_network(training, dtype):
    network, loader = make_network(), make_loader()
    functional.cross_entropy(network(loader.images), loader.labels).backward()
    network.to(dtype).train(training)
    network.blocks[0].eval()
    before = trace(network)
    seen = look(network, loader)
    seen.displaced(0.1, reads=READABLE)
    seen.gradients_on(*loader.probe_batch(4))
    seen.couples_examples()
    torch.testing.assert_close(trace(network), before, rtol=0, atol=0, equal_nan=True)
    assert seen.weights[1].dtype == torch.float32


class Noisy(nn.Module):
    """A network that draws random numbers in every pass, and whose output depends on how many passes there were."""

    num_passes: torch.Tensor

    def __init__(self):
        super().__init__()
        self.inner = make_network()
        self.register_buffer("num_passes", torch.zeros(()))
        self.layers = tuple(
            type(layer)(layer.depth, f"inner.{layer.name}", layer.kind, f"inner.{layer.activation}")
            for layer in self.inner.layers
        )

    def forward(self, x):
        self.num_passes.add_(1)
        return self.inner(functional.dropout(x, 0.5, self.training)) * self.num_passes


def test_a_network_that_draws_and_counts_is_not_moved_and_sees_every_pass_as_the_first():
    network, loader = Noisy(), make_loader()
    before = torch.get_rng_state()
    seen = look(network, loader)
    assert seen.displaced(0.0).loss == seen.loss
    assert torch.equal(torch.get_rng_state(), before)
    assert network.num_passes == 0


def test_observing_is_in_full_precision_whatever_training_uses():
    network, loader = make_network(widths=(16, 32)), make_loader()
    exact = look(network, loader)
    backends: Any = torch.backends
    settings = (backends.mkldnn.conv, backends.mkldnn.matmul, backends.cudnn.conv)
    before = [s.fp32_precision for s in settings]
    try:
        for setting, precision in zip(settings, ("bf16", "bf16", "tf32"), strict=True):
            setting.fp32_precision = precision
        seen = look(network, loader)
        assert [s.fp32_precision for s in settings] == ["bf16", "bf16", "tf32"]
        with pytest.raises(KeyError), full_precision():
            assert [s.fp32_precision for s in settings] == ["ieee"] * 3
            raise KeyError
        assert [s.fp32_precision for s in settings] == ["bf16", "bf16", "tf32"]
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
    for depth, gradient in exact.gradients.items():
        assert torch.equal(seen.gradients[depth], gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_diverged_network_is_observed_as_it_is(value):
    network, loader = make_network("none"), make_loader()
    with torch.no_grad():
        network.stem.weight.fill_(value)
        network.blocks[0].conv1.weight.fill_(value)
    seen = look(network, loader)
    assert not np.isfinite(seen.loss) or seen.loss > 1e20
    assert not all(a.isfinite().all() for a in seen.activations.values())


@pytest.mark.parametrize(("channels", "kernel", "stride", "safe"), [(4, 1, 2, False), (8, 1, 2, True), (4, 3, 2, True)])
def test_a_layout_in_which_the_processor_writes_beyond_its_memory_is_not_taken(channels, kernel, stride, safe):
    """In channels_last, the weight gradient of a narrow, strided 1x1 convolution aborts where there is AVX2 alone."""
    network = nn.Sequential(nn.Conv2d(channels, 8, kernel, stride), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert memory_format(network) == (torch.channels_last if safe else torch.contiguous_format)
    for _ in range(5):
        images, layers = torch.randn(6, channels, 8, 8), (Layer(1, "0", "conv", "0"),)
        seen = observe(network, images, torch.arange(6), reads={"gradients"}, layers=layers)
        assert seen.gradients[1].isfinite().all()


class WithoutConv2(Block):
    def forward(self, x):
        return self.relu1(self.norm1(self.conv1(x)))


class WithoutRelu2(Block):
    def forward(self, x):
        return torch.relu(self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x))))))


@pytest.mark.parametrize(
    ("reads", "missing", "named"),
    [
        ({"preactivations"}, WithoutConv2, "conv2"), ({"inputs"}, WithoutConv2, "conv2"),
        ({"output_gradients"}, WithoutConv2, "conv2"), ({"activations"}, WithoutConv2, "relu2"),
        ({"activations"}, WithoutRelu2, "relu2"),
    ],
)  # fmt: skip
def test_a_layer_that_a_pass_leaves_out_is_named(reads, missing, named):
    network, loader = make_network(), make_loader()
    network.blocks[0].__class__ = missing
    with pytest.raises(ValueError, match=rf"^blocks\.0\.{named}: .*did not call it; .*leave out the probes"):
        look(network, loader, reads)
    assert look(network, loader, {"gradients"}).gradients.keys() == {layer.depth for layer in network.layers}


def test_weights_that_are_made_of_other_parameters_are_named():
    network, loader = make_network(), make_loader()
    torch.nn.utils.parametrizations.weight_norm(network.blocks[0].conv1)
    seen = look(network, loader, {"gradients", "activations"}, initial=network.state_dict())
    assert len(seen.activations) == len(network.layers)
    for read in (lambda: seen.weights, lambda: seen.gradients, lambda: seen.initial_weights,
                 lambda: seen.gradients_on(seen.images_NCHW, seen.labels_N)):  # fmt: skip
        with pytest.raises(ValueError, match=r"^blocks\.0\.conv1: .*other parameters.*; leave the probe out"):
            read()
