"""Networks: their size, the numbering of their layers, their variants, and that they compute what their names say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bnstudy import models, norms
from bnstudy.models.lenet import _squash
from bnstudy.training.engine.stacked import stack

CIFAR, FASHION = (3, 32, 32), (1, 28, 28)
ACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"sigmoid": torch.sigmoid, "relu": torch.relu}
POOL: dict[str, Callable[..., torch.Tensor]] = {"max": functional.max_pool2d, "average": functional.avg_pool2d}
NORMS = ("none", "batch", "batch_scratch")
VARIANTS = [
    ("resnet", {"depth": 8}),
    ("resnet", {"depth": 14, "shortcut": "identity", "bias": True}),
    ("lenet", {}),
    ("lenet", {"padding": 2, "pooling": "average", "activation": "relu"}),
    ("tutorial_cnn", {}),
    ("tutorial_cnn", {"rectified_outputs": False}),
    ("mlp", {}),
    ("mlp", {"hidden": "24-16-8", "activation": "sigmoid"}),
    ("matrix_product", {"width": 20, "num_factors": 3}),
]
variants = pytest.mark.parametrize(("model", "options"), VARIANTS)


def build(model, norm="none", shape=CIFAR, seed=0, init="xavier_uniform", num_classes=10, **options):
    return models.build(model, options, norms.Factory(norm, {}), init, shape, num_classes, seed)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def count(network):
    return sum(p.numel() for p in network.parameters())


def by_type(network, *types):
    return {name: module for name, module in network.named_modules() if isinstance(module, types)}


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("shortcut", "parameters"), [("projection", 1_730_714), ("identity", 1_727_962)])
def test_resnet_110_has_the_published_size(shortcut, parameters):
    assert count(build("resnet", "batch", shortcut=shortcut)) == parameters


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnet_sizes_of_he_et_al(depth, millions):
    """Table 6 of He et al. (2016), option A."""
    digits = 1 if depth == 110 else 2
    assert round(count(build("resnet", "batch", depth=depth, shortcut="identity")) / 1e6, digits) == millions


@pytest.mark.parametrize(("shortcut", "channels"), [("projection", 4144), ("identity", 4048)])
def test_norm_adds_two_parameters_a_channel_and_nothing_else(shortcut, channels):
    # 16 + 36 (16 + 32 + 64) channels, and 32 + 64 behind the projections
    plain, normed = (build("resnet", norm, shortcut=shortcut) for norm in ("none", "batch"))
    assert count(normed) - count(plain) == 2 * channels


def test_lenet_has_the_textbooks_sizes():
    assert count(build("lenet", shape=FASHION, padding=2)) == 61_706
    assert count(build("lenet", shape=FASHION)) == 44_426
    assert count(build("lenet", "batch", shape=FASHION)) == 44_426 + 452
    assert count(build("lenet", "batch_scratch", shape=FASHION)) == 44_426 + 452


def test_tutorial_cnn_has_the_tutorials_sizes():
    plain = 10 * 25 + 10 + 20 * 250 + 20 + 320 * 50 + 50 + 50 * 10 + 10
    assert count(build("tutorial_cnn", shape=FASHION)) == plain
    assert count(build("tutorial_cnn", "batch", shape=FASHION)) == plain + 2 * 20 + 2 * 50


def test_tutorial_cnn_computes_what_the_tutorial_wrote():
    """Up to the log-softmax, which the loss takes: cross-entropy of logits is the negative of their log-softmax."""
    network = build("tutorial_cnn", "batch", shape=FASHION)
    x = images = random(6, *FASHION)
    x = functional.relu(functional.max_pool2d(network.conv1(x), 2))
    x = functional.relu(functional.max_pool2d(network.norm2(network.conv2(x)), 2))
    x = functional.relu(network.norm3(network.dense1(x.view(-1, 320))))
    x = functional.relu(network.classifier(x))
    torch.testing.assert_close(network(images), x)


def test_mlp_sizes():
    assert count(build("mlp", shape=FASHION)) == 784 * 256 + 256 + 256 * 10 + 10
    assert count(build("mlp", "batch", shape=(2, 3, 4), hidden="5-7", num_classes=4)) == (
        24 * 5 + 5 + 10 + 5 * 7 + 7 + 14 + 7 * 4 + 4
    )


# ---------------------------------------------------------------- layers


def test_layers_of_resnet_110_number_as_in_the_paper():
    layers = build("resnet").layers
    assert [layer.depth for layer in layers] == list(range(1, 111))
    assert (layers[0].name, layers[0].stage, layers[109].name, layers[109].kind) == ("stem", 0, "classifier", "linear")
    for stage, (first, last) in {1: (2, 37), 2: (38, 73), 3: (74, 109)}.items():
        assert [layer.depth for layer in layers if layer.stage == stage] == list(range(first, last + 1))
    assert [layer.depth for layer in layers if layer.block_output] == list(range(3, 110, 2))
    assert layers[54].name == "stage2.8.conv2"  # 55 = 37 + 18: second convolution of the stage's ninth block
    assert not any("shortcut" in layer.name for layer in layers)
    assert [layer.depth for layer in layers if layer.kind == "conv"] == list(range(1, 110))


def test_channels_and_sizes_at_the_papers_layers():
    network = build("resnet")
    seen: dict[int, tuple[int, ...]] = {}
    for layer in network.layers:
        module = network.get_submodule(layer.activation)
        module.register_forward_hook(
            lambda _, __, out, depth=layer.depth: seen.__setitem__(depth, tuple(out.shape[1:]))
        )
    network(random(2, *CIFAR))
    assert {depth: seen[depth] for depth in (1, 8, 37, 38, 44, 73, 74, 80, 109, 110)} == {
        1: (16, 32, 32), 8: (16, 32, 32), 37: (16, 32, 32), 38: (32, 16, 16), 44: (32, 16, 16), 73: (32, 16, 16),
        74: (64, 8, 8), 80: (64, 8, 8), 109: (64, 8, 8), 110: (10,),
    }  # fmt: skip


@variants
@pytest.mark.parametrize("norm", NORMS)
def test_layers_name_every_weight_but_the_projections_in_the_order_of_the_forward_pass(model, options, norm):
    network = build(model, norm, **options)
    weighted = by_type(network, nn.Conv2d, nn.Linear)
    assert [layer.depth for layer in network.layers] == list(range(1, len(network.layers) + 1))
    assert {layer.name for layer in network.layers} == {name for name in weighted if "shortcut" not in name}
    order = []
    for layer in network.layers:
        assert isinstance(weighted[layer.name], nn.Conv2d if layer.kind == "conv" else nn.Linear)
        for path in {layer.name, layer.activation}:
            network.get_submodule(path).register_forward_hook(lambda *_, path=path: order.append(path))
    network(random(2, *CIFAR))
    expected = [path for layer in network.layers for path in dict.fromkeys((layer.name, layer.activation))]
    assert order == expected


@variants
def test_activation_of_a_layer_is_what_the_next_weight_layer_sees(model, options):
    network = build(model, "batch", **options)
    inputs: dict[int, torch.Tensor] = {}
    activations: dict[int, torch.Tensor] = {}
    for layer in network.layers:
        network.get_submodule(layer.name).register_forward_hook(
            lambda _, args, __, depth=layer.depth: inputs.__setitem__(depth, args[0])
        )
        network.get_submodule(layer.activation).register_forward_hook(
            lambda _, __, out, depth=layer.depth: activations.__setitem__(depth, out)
        )
    logits = network(random(4, *CIFAR))
    last = network.layers[-1].depth
    assert torch.equal(activations[last], logits)
    for depth in range(1, last):
        seen, left = inputs[depth + 1], activations[depth]
        if seen.dim() != left.dim():
            left = left.mean((2, 3)) if model == "resnet" else left.flatten(1)
        torch.testing.assert_close(seen, left, rtol=0, atol=0)


@variants
@pytest.mark.parametrize("norm", NORMS)
def test_only_known_modules_hold_weights_and_none_is_shared(model, options, norm):
    network = build(model, norm, **options)
    modules = [m for m in network.modules() if list(m.parameters(recurse=False))]
    allowed = (
        nn.Conv2d,
        nn.Linear,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        type(norms.Factory("batch_scratch", {})(1, 2, "x")),
    )
    assert all(isinstance(module, allowed) for module in modules)
    every = [name for name, _ in network.named_modules(remove_duplicate=False)]
    assert every == [name for name, _ in network.named_modules()]


@pytest.mark.parametrize(("model", "options"), [("resnet", {"depth": 14}), ("lenet", {}), ("mlp", {"hidden": "8-8"})])
def test_sites_of_norms_are_their_paths(model, options):
    sites = []

    class Recorder(norms.Factory):
        def __call__(self, num_features, ndim, site):
            sites.append((site, num_features))
            return super().__call__(num_features, ndim, site)

    network = models.build(model, options, Recorder("batch", {}), "xavier_uniform", CIFAR, 10, 0)
    found = by_type(network, nn.BatchNorm1d, nn.BatchNorm2d)
    assert {(path, module.num_features) for path, module in found.items()} == set(sites)


# ---------------------------------------------------------------- what they compute


def blocks(network):
    return [block for stage in (network.stage1, network.stage2, network.stage3) for block in stage]


@pytest.mark.parametrize("where", ["before_pooling", "after_classifier"])
def test_a_norm_at_the_end_alone_normalises_what_the_same_network_without_one_computes(where):
    plain = build("resnet", depth=8).double()
    options = {"depth": 8}
    normed = models.build("resnet", options, norms.Factory("batch", {}, where), "xavier_uniform", CIFAR, 10, 0).double()
    images = random(6, *CIFAR, dtype=torch.float64)
    features = plain.stage3(plain.stage2(plain.stage1(plain.relu(plain.stem(images)))))
    if where == "before_pooling":
        features = functional.batch_norm(features, None, None, training=True)
    logits = plain.classifier(features.mean((2, 3)))
    if where == "after_classifier":
        logits = functional.batch_norm(logits, None, None, training=True)
    torch.testing.assert_close(normed(images), logits)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("shortcut", ["projection", "identity"])
def test_resnet_computes_the_original_post_activation_network(norm, shortcut):
    """Against the same network written down from He et al. (2016) with functions, on the network's own weights."""
    network = build("resnet", norm, depth=14, shortcut=shortcut).double()

    def convolve(path, x, stride=1):
        kernel = network.get_submodule(path).weight
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalise(x):  # scales are 1 and shifts 0 at initialisation
        if norm == "none":
            return x
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()

    images = random(4, *CIFAR, dtype=torch.float64)
    x = normalise(convolve("stem", images)).clamp(min=0)
    for stage in (1, 2, 3):
        for index in (0, 1):
            path, stride = f"stage{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = normalise(convolve(f"{path}.conv1", x, stride)).clamp(min=0)
            y = normalise(convolve(f"{path}.conv2", y))
            if stride == 2 and shortcut == "projection":
                x = normalise(convolve(f"{path}.shortcut.0", x, stride))
            elif stride == 2:
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = (x + y).clamp(min=0)
    expected = x.mean((2, 3)) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-10)


def test_identity_shortcut_passes_every_channel_and_adds_no_weight():
    network = build("resnet", depth=8, shortcut="identity")
    x = random(2, 16, 5, 7)
    y = network.stage2[0].shortcut(x)
    assert y.shape == (2, 32, 3, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()
    assert not list(network.stage2[0].shortcut.parameters())


def test_shortcuts_that_keep_the_shape_are_the_identity():
    for shortcut in ("projection", "identity"):
        shapes = [
            isinstance(block.shortcut, nn.Identity) for block in blocks(build("resnet", depth=20, shortcut=shortcut))
        ]
        assert shapes == [True] * 3 + [False, True, True] * 2


def test_resnet_with_silent_residuals_is_its_shortcuts():
    """With the second convolutions at zero every block of a stage passes on what it got."""
    network = build("resnet", depth=20, shortcut="identity")
    with torch.no_grad():
        for block in blocks(network):
            block.conv2.weight.zero_()
    images = random(2, *CIFAR)
    stem = network.relu(network.stem(images))[:, :, ::4, ::4]
    pooled = functional.pad(stem.mean((2, 3)), (24, 24))
    torch.testing.assert_close(network(images), network.classifier(pooled))


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("padding", [0, 2])
def test_lenet_computes_the_textbooks_network(pooling, activation, padding):
    """The textbook's order: activation, then pooling."""
    network = build("lenet", "batch", FASHION, pooling=pooling, activation=activation, padding=padding).double().eval()
    act = ACT[activation]
    pool = POOL[pooling]
    images = random(4, *FASHION, dtype=torch.float64)
    weights = {name: (m.weight, m.bias) for name, m in by_type(network, nn.Conv2d, nn.Linear).items()}
    shrink = 1 / math.sqrt(1 + 1e-5)  # evaluation at the first running statistics, mean 0 and variance 1
    x = pool(act(functional.conv2d(images, *weights["conv1"], padding=padding) * shrink), 2)
    x = pool(act(functional.conv2d(x, *weights["conv2"]) * shrink), 2)
    x = act(functional.linear(x.flatten(1), *weights["dense1"]) * shrink)
    x = act(functional.linear(x, *weights["dense2"]) * shrink)
    expected = functional.linear(x, *weights["classifier"])
    torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
    activation=st.sampled_from(["sigmoid", "relu"]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_max_pooling_and_a_rising_activation_change_places(shape, activation, scale, seed):
    """Values and gradients: the largest input has the largest output, and is the one that is moved."""
    squash = _squash("max", activation)
    act = ACT[activation]
    results = []
    for network in (squash, lambda z: functional.max_pool2d(act(z), 2)):
        z = (scale * random(*shape, seed=seed, dtype=torch.float64)).requires_grad_()
        y = network(z)
        (gradient,) = torch.autograd.grad((y * random(*y.shape, seed=seed + 1, dtype=torch.float64)).sum(), z)
        results.append((y, gradient))
    for ours, slow in zip(*results, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)


def test_max_pooling_comes_first_and_average_pooling_last():
    assert [type(m) for m in _squash("max", "relu")] == [nn.MaxPool2d, nn.ReLU]
    assert [type(m) for m in _squash("average", "relu")] == [nn.ReLU, nn.AvgPool2d]


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_mlp_computes_its_layers(activation):
    network = build("mlp", shape=FASHION, hidden="20-12", activation=activation).double()
    act = ACT[activation]
    images = random(3, *FASHION, dtype=torch.float64)
    x = images.reshape(3, 784)
    for index in (0, 1):
        dense = network.hidden[index].dense
        x = act(x @ dense.weight.T + dense.bias)
    torch.testing.assert_close(network(images), x @ network.classifier.weight.T + network.classifier.bias)


@variants
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [CIFAR, FASHION])
def test_two_images_of_either_shape_in_either_precision(model, options, norm, dtype, shape):
    network = build(model, norm, shape, **options).to(dtype).train()
    logits = network(random(2, *shape, dtype=dtype))
    assert logits.shape == (2, 10) and logits.dtype == dtype and logits.isfinite().all()
    gradients = torch.autograd.grad(functional.cross_entropy(logits, torch.tensor([1, 7])), list(network.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    assert network.eval()(random(1, *shape, dtype=dtype)).shape == (1, 10)


@variants
@pytest.mark.parametrize("mode", [True, False])
def test_our_own_norm_gives_torchs_logits_and_gradients_in_a_network(model, options, mode):
    ours, torchs = (build(model, norm, **options).double().train(mode) for norm in ("batch_scratch", "batch"))
    images, labels = random(4, *CIFAR, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    results = []
    for network in (ours, torchs):
        loss = functional.cross_entropy(network(images), labels)
        results.append((loss, *torch.autograd.grad(loss, list(network.parameters()))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@variants
@pytest.mark.parametrize("norm", NORMS)
def test_no_module_writes_into_its_input_or_a_seen_output(model, options, norm):
    """Tensors' version counters move with every in-place operation."""
    network = build(model, norm, **options)
    seen: list[tuple[torch.Tensor, int, torch.Tensor]] = []

    def see(_, args, output):
        seen.extend((tensor, tensor._version, tensor.clone()) for tensor in (*args, output))

    for module in network.modules():
        module.register_forward_hook(see)
    images = random(2, *CIFAR)
    functional.cross_entropy(network(images), torch.tensor([0, 1])).backward()
    assert len(seen) > 10
    for tensor, version, value in seen:
        assert tensor._version == version and torch.equal(tensor, value)


@variants
@pytest.mark.parametrize("norm", NORMS)
def test_channels_last_gives_the_same_logits(model, options, norm):
    network = build(model, norm, **options).double()
    images = random(3, *CIFAR, dtype=torch.float64)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        last(images.contiguous(memory_format=torch.channels_last)), network(images), rtol=1e-10, atol=1e-10
    )


# the factors of matrix_product have no biases to lay side by side, and it does not say that it can be stacked
@pytest.mark.parametrize(("model", "options"), [v for v in VARIANTS if v[0] != "matrix_product"])
@pytest.mark.parametrize("norm", NORMS)
def test_networks_side_by_side_compute_what_each_computes(model, options, norm):
    networks = [build(model, norm, seed=seed, **options).double() for seed in (0, 1, 2)]
    images = random(4, *CIFAR, dtype=torch.float64)
    wide = stack(networks)(images)
    torch.testing.assert_close(wide, torch.cat([network(images) for network in networks], 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@variants
def test_number_of_classes(model, options, num_classes):
    assert build(model, num_classes=num_classes, **options)(random(2, *CIFAR)).shape == (2, num_classes)


def test_input_sizes():
    assert [models.input_size(name) for name in ("resnet", "lenet", "mlp")] == [32, None, None]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(("model", "options", "message"), [
    ("resnet", {"depth": 18}, r"model\.depth = 18: .*6n \+ 2 layers, such as 20"),
    ("resnet", {"depth": 2}, r"model\.depth = 2: "),
    ("resnet", {"depth": -4}, r"model\.depth = -4: "),
    ("resnet", {"shortcut": "zero"}, r"model\.shortcut = 'zero': choose one of projection, identity"),
    ("lenet", {"pooling": "median"}, r"model\.pooling = 'median': choose one of max, average"),
    ("lenet", {"activation": "tanh"}, r"model\.activation = 'tanh': choose one of sigmoid, relu"),
    ("lenet", {"padding": -1}, r"model\.padding = -1: give 0 or more"),
    ("mlp", {"activation": "tanh"}, r"model\.activation = 'tanh': choose one of sigmoid, relu"),
    ("mlp", {"hidden": ""}, r"model\.hidden = '': give widths with dashes between them, such as 256 or 512-256"),
    ("mlp", {"hidden": "256,10"}, r"model\.hidden = '256,10'"),
    ("mlp", {"hidden": "256-0"}, r"model\.hidden = '256-0'"),
    ("mlp", {"hidden": "wide"}, r"model\.hidden = 'wide'"),
])  # fmt: skip
def test_options_that_make_no_network_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        build(model, **options)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), padding=st.integers(0, 3))
def test_lenet_refuses_images_that_vanish_and_says_which_padding_helps(height, width, padding):
    shape = (1, height, width)
    try:
        network = build("lenet", shape=shape, padding=padding)
    except ValueError as error:
        assert min(height, width) + 2 * padding < 16
        assert f"model.padding = {padding}: images of {height}x{width}" in str(error)
        need = int(str(error).split("use ")[1].split()[0])
        assert build("lenet", shape=shape, padding=need)(random(1, *shape)).shape == (1, 10)
        with pytest.raises(ValueError, match="vanish"):
            build("lenet", shape=shape, padding=need - 1)
    else:
        assert network(random(1, *shape)).shape == (1, 10)


def test_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"'vgg'; there are .*lenet, .*mlp, resnet"):
        build("vgg")
