"""However an engine computes, its numbers are those of the plain loop that a textbook writes, run by run."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.config.schema import Config, Optim, Runtime
from bnstudy.training import engine
from bnstudy.training.engine.lockstep import Lockstep
from bnstudy.training.engine.parallel import Parallel
from bnstudy.training.engine.stacked import stack, unstack

SIDES = {"lenet": (1, 28), "mlp": (1, 12), "resnet": (3, 12)}  # channels, pixels
SHORT: dict[str, dict[str, object]] = {"lenet": {}, "mlp": {"hidden": "32-16"}, "resnet": {"depth": 20}}


def network(name, norm, seed, dtype=torch.float32, **options):
    factory = norms.Factory(norm, plugins.defaults("norms", norm))
    channels, side = SIDES[name]
    chosen = plugins.defaults("models", name) | SHORT[name] | options
    return models.build(name, chosen, factory, "xavier_uniform", (channels, side, side), 10, seed).to(dtype)


def batch(name, seed=0, size=32, dtype=torch.float32):
    """In float64 a part is background, whose pooled places tie; in float32 rounding would choose between them."""
    channels, side = SIDES[name]
    source = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, channels, side, side), generator=source).to(dtype) / 255
    if dtype == torch.float64:
        images[: size // 4, :, : side // 2] = 0
    return images, torch.randint(0, 10, (size,), generator=source)


def lockstep(networks, optim=None, *, fuse=True):
    return Lockstep(
        networks,
        optim or Optim(momentum=0.9, weight_decay=0.0),
        divergence_loss=1e3,
        device=torch.device("cpu"),
        channels_last=True,
        fuse=fuse,
    )


def plain(net, batches, optim, lr):
    """The plain loop: after each update the loss before it, and the network with the gradients it used."""
    net = copy.deepcopy(net).train()
    sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    for images, labels in batches:
        sgd.zero_grad()
        loss = functional.cross_entropy(net(images), labels)
        loss.backward()
        sgd.step()
        yield loss.item(), net


def layers(net, gradients):
    """One vector a layer: the gradients of a module's weights and biases together."""
    found: dict[str, list[torch.Tensor]] = {}
    for (name, _), gradient in zip(net.named_parameters(), gradients, strict=True):
        found.setdefault(name.rpartition(".")[0], []).append(gradient.flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}


def check_one_step(nets, name):
    """From the same state: loss within 1e-5, gradients within 1e-4 relative per layer, in float32.

    Where two places under a pool nearly tie, rounding chooses which has the gradient: the mini-batch is the first
    without such a place in any of the networks.
    """
    seen = next(seen for seed in range(20) if not ties(nets, seen := batch(name, seed)))
    error, layer = one_step_error(nets, name, seen)
    assert error < 1e-4, layer


def ties(nets, seen):
    """Whether the two largest values under a max-pool are within rounding of each other, in float64."""
    found = False

    def look(pool, inputs):
        nonlocal found
        windows = functional.unfold(inputs[0].flatten(0, 1)[:, None], pool.kernel_size, stride=pool.stride)
        first, second = windows.topk(2, dim=1).values.unbind(1)
        found = found or bool((first - second < 1e-6 * inputs[0].std()).any())

    for net in nets:
        twin = copy.deepcopy(net).double().train()
        for module in twin.modules():
            if isinstance(module, nn.MaxPool2d):
                module.register_forward_pre_hook(look)
        twin(seen[0].double())
    return found


def one_step_error(nets, name, seen):
    """The largest relative error of a layer's gradient, and the layer; what else a step gives is held to its bounds."""
    optim, num_runs = Optim(momentum=0.9, weight_decay=0.0), len(nets)
    rates = [0.1 * (run + 1) for run in range(num_runs)]
    made = lockstep(nets, optim)
    result = made.step(seen, rates)
    state, errors = made.state(), []
    for run, net in enumerate(nets):
        ((loss, twin),) = plain(net, [seen], optim, rates[run])
        assert result.loss_R[run].item() == pytest.approx(loss, abs=1e-5)
        theirs = [p.grad for p in twin.parameters()]
        # the first velocity of SGD is the gradient itself
        ours = [unstack(state[f"velocity.{index}"], run, num_runs) for index in range(len(theirs))]
        wanted = layers(net, theirs)
        for layer, gradient in layers(net, ours).items():
            errors.append((float((gradient - wanted[layer]).norm() / wanted[layer].norm()), layer))
        norm = torch.cat([g.flatten() for g in wanted.values()]).norm().item()
        assert result.gradient_norm_R[run].item() == pytest.approx(norm, rel=1e-3)
        with torch.no_grad():
            right = int((copy.deepcopy(net).train()(seen[0]).argmax(1) == seen[1]).sum())
        assert abs(int(result.correct_R[run]) - right) <= 1
        assert bool(result.alive_R[run])
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(made.network(run).state_dict()[key], value, rtol=1e-3, atol=1e-3)
    return max(errors)


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "none", "batch_scratch"])
def test_one_step_of_lenet(norm, num_runs, padding, pooling):
    seeds = range(num_runs)
    check_one_step([network("lenet", norm, seed, padding=padding, pooling=pooling) for seed in seeds], "lenet")


@pytest.mark.parametrize("side", [29, 32])
def test_one_step_of_lenet_on_other_images(side, monkeypatch):
    """Of 29 pixels: the pool leaves out a last row and column, which the norm before it sees."""
    monkeypatch.setitem(SIDES, "lenet", (3, side))
    check_one_step([network("lenet", "batch", seed) for seed in range(2)], "lenet")


@pytest.mark.parametrize("norm", ["batch", "none", "batch_scratch"])
def test_one_step_of_a_perceptron(norm):
    check_one_step([network("mlp", norm, seed) for seed in range(3)], "mlp")


def smooth(net):
    """The network with a non-linearity that has no kink.

    Where rounding moves a pre-activation across a ReLU's kink a gradient entry appears or goes: in a deep network that
    sets two plain loops (two memory formats, fp32 and float64) apart by up to a hundredth.
    """
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.ReLU):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, nn.Softplus(beta=5))
    return net


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_one_step_of_resnet(norm, shortcut):
    check_one_step([smooth(network("resnet", norm, 0, shortcut=shortcut))], "resnet")


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_one_step_of_resnet_on_images_whose_every_stage_the_kernels_convolve(norm, monkeypatch):
    monkeypatch.setitem(SIDES, "resnet", (3, 32))
    check_one_step([smooth(network("resnet", norm, 0, depth=8))], "resnet")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_twenty_losses_of_that_network_in_float64(norm, monkeypatch):
    monkeypatch.setitem(SIDES, "resnet", (3, 32))
    net, optim = network("resnet", norm, 0, torch.float64, depth=8), Optim(momentum=0.9, weight_decay=1e-4)
    batches = [batch("resnet", seed, 8, torch.float64) for seed in range(20)]
    made = lockstep([net], optim)
    losses = [made.step(each, [0.01]).loss_R.item() for each in batches]
    assert losses == pytest.approx([loss for loss, _ in plain(net, batches, optim, 0.01)], abs=1e-9)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_loss_of_resnet_as_it_is(norm):
    net, optim = network("resnet", norm, 0), Optim(momentum=0.9, weight_decay=1e-4)
    ((loss, _),) = plain(net, [batch("resnet")], optim, 0.1)
    assert lockstep([net], optim).step(batch("resnet"), [0.1]).loss_R.item() == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("num_runs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_twenty_losses_in_float64(name, norm, num_runs):
    """Stacked residual networks too, with either shortcut, although no sweep stacks them."""
    optim = Optim(momentum=0.9, weight_decay=1e-4) if name == "resnet" else Optim(momentum=0.0, weight_decay=0.0)
    options = {"shortcut": "identity" if num_runs > 1 else "projection"} if name == "resnet" else {}
    nets = [network(name, norm, seed, torch.float64, **options) for seed in range(num_runs)]
    rates = [0.01, 0.005][:num_runs] if name == "resnet" else [1.0, 0.5][:num_runs]
    size = 8 if name == "resnet" else 32
    batches = [batch(name, seed, size, torch.float64) for seed in range(20)]
    made = lockstep(nets, optim)
    losses = torch.stack([made.step(each, rates).loss_R for each in batches])
    assert losses.dtype == torch.float64
    for run in range(num_runs):
        wanted = [loss for loss, _ in plain(nets[run], batches, optim, rates[run])]
        assert losses[:, run].tolist() == pytest.approx(wanted, abs=1e-9)
        assert len(set(wanted)) == 20


def bits(made, runs):
    state = made.state()
    return [unstack(v, run, made.num_runs) for run in runs for k, v in state.items() if k != "alive"]


@pytest.mark.parametrize("how", ["learning rate", "weights"])
@pytest.mark.parametrize(
    ("name", "norm", "options"),
    [
        ("lenet", "batch", {}),
        ("lenet", "none", {"activation": "relu"}),
        ("lenet", "batch_scratch", {"pooling": "average", "padding": 2}),
        ("mlp", "batch", {}),
        ("resnet", "batch", {}),
        ("resnet", "none", {"shortcut": "identity"}),
    ],
)
def test_a_run_that_goes_to_infinity_leaves_its_neighbours_untouched(name, norm, options, how):
    steps, size = (2, 4) if name == "resnet" else (4, 16)
    optim = Optim(momentum=0.9, weight_decay=1e-4)
    nets = [network(name, norm, seed, **options) for seed in range(3)]
    healthy = lockstep(nets, optim)
    if how == "weights":
        with torch.no_grad():
            for index, parameter in enumerate(nets[1].parameters()):
                parameter.flatten()[::3] = float("inf") if index % 2 else float("nan")
    sick = lockstep(nets, optim)
    rates = [0.1, 1e30 if how == "learning rate" else 0.1, 0.3]
    alive = []
    for step in range(steps):
        data = batch(name, step, size)
        ours, theirs = sick.step(data, rates), healthy.step(data, [0.1, 0.1, 0.3])
        for field in ("loss_R", "correct_R", "gradient_norm_R", "alive_R"):
            assert torch.equal(getattr(ours, field)[[0, 2]], getattr(theirs, field)[[0, 2]]), field
        alive.append(ours.alive_R.tolist())
    assert alive[-1] == [True, False, True]
    assert alive[0] == [True, how == "learning rate", True]
    assert all(map(torch.equal, bits(sick, (0, 2)), bits(healthy, (0, 2))))
    test = [batch(name, 99, size)]
    for mine, wanted in zip(sick.evaluate(test), healthy.evaluate(test), strict=True):
        assert torch.equal(mine[[0, 2]], wanted[[0, 2]])


def test_a_dead_run_is_dead_for_good_and_keeps_its_weights():
    nets = [network("lenet", "none", seed, activation="relu") for seed in range(2)]
    made = lockstep(nets)
    made.step(batch("lenet"), [1e30, 0.1])
    at_divergence = made.network(0).state_dict()
    for step in range(3):
        seen = made.step(batch("lenet", step), [1e-9, 0.1])
        assert seen.alive_R.tolist() == [False, True]
    assert all(torch.equal(v, at_divergence[k]) for k, v in made.network(0).state_dict().items())


@pytest.mark.parametrize("how", ["stacked", "parallel"])
def test_a_dead_run_keeps_the_statistics_that_it_has_alone(how):
    """However long the others train on."""
    nets = [network("lenet", "batch", seed) for seed in range(2)]
    alone = lockstep(nets[:1])
    made = lockstep(nets) if how == "stacked" else Parallel([lockstep([net]) for net in nets], torch.device("cpu"))
    alive = True
    for step in range(5):
        seen = made.step(batch("lenet", step), [1e9, 0.1])
        if alive:
            alive = bool(alone.step(batch("lenet", step), [1e9]).alive_R)
    assert not alive and seen.alive_R.tolist() == [False, True]
    dead = made.network(0).state_dict()
    for key, value in alone.network(0).state_dict().items():
        if how == "parallel":
            assert torch.equal(dead[key], value), key
        elif "running" in key:
            torch.testing.assert_close(dead[key], value, rtol=1e-3, atol=1e-4)


def test_a_finite_loss_above_the_bound_is_divergence_too():
    net = network("lenet", "none", 0)
    with torch.no_grad():
        net.classifier.bias[3] = 2e3
    images, _ = batch("lenet")
    made = lockstep([net])
    seen = made.step((images, torch.zeros(len(images), dtype=torch.int64)), [0.1])
    assert seen.loss_R.isfinite().all() and seen.loss_R.item() > 1e3 and not seen.alive_R.any()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in made.network(0).state_dict().items())


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "none", "batch_scratch"])
def test_evaluation_uses_running_statistics(norm, num_runs):
    nets = [network("lenet", norm, seed) for seed in range(num_runs)]
    made = lockstep(nets)
    for step in range(3):
        made.step(batch("lenet", step), [0.5] * num_runs)
    batches = [batch("lenet", 10, 30), batch("lenet", 11, 7)]  # of unequal size: each image counts once
    loss_R, accuracy_R = made.evaluate(batches)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for run in range(num_runs):
        net = made.network(run).eval()
        with torch.no_grad():
            logits = net(images)
        assert loss_R[run].item() == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=1e-5)
        assert accuracy_R[run].item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_evaluating_and_looking_change_nothing():
    nets = [network("lenet", "batch", seed) for seed in range(2)]
    made = lockstep(nets)
    made.step(batch("lenet"), [0.1, 0.2])
    before = made.state()
    made.evaluate([batch("lenet", 1)])
    with torch.no_grad():
        copied = made.network(1)
        assert copied.training
        for parameter in copied.parameters():
            parameter.fill_(7.0)
        copied(batch("lenet")[0])
    after = made.state()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert made.step(batch("lenet", 2), [0.1, 0.2]).loss_R.isfinite().all()


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_state_and_load_go_on_to_the_bit(name, num_runs):
    if name == "resnet" and num_runs > 1:
        num_runs = 2
    size = 4 if name == "resnet" else 32
    optim = Optim(momentum=0.9, weight_decay=1e-4)
    rates = [1e30 if run == 2 else 0.1 for run in range(num_runs)]  # the third dies
    nets = [network(name, "batch", seed) for seed in range(num_runs)]
    whole = lockstep(nets, optim)
    for step in range(2):
        whole.step(batch(name, step, size), rates)
    again = lockstep([network(name, "batch", 50 + seed) for seed in range(num_runs)], optim)
    again.load(whole.state())
    for step in range(2, 4):
        ours, theirs = (made.step(batch(name, step, size), rates) for made in (again, whole))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)  # the third run's are NaN in both
    first, second = again.state(), whole.state()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0, equal_nan=True)


def test_a_saved_state_is_a_copy():
    made = lockstep([network("lenet", "batch", 0)])
    before = made.state()
    kept = {k: v.clone() for k, v in before.items()}
    made.step(batch("lenet"), [0.1])
    assert all(torch.equal(before[k], kept[k]) for k in kept)


@pytest.mark.parametrize("name", ["lenet", "mlp", "resnet"])
def test_stack_and_unstack(name):
    nets = [network(name, "batch", seed, torch.float64) for seed in range(3)]
    check_stacked(nets, *batch(name, size=5, dtype=torch.float64))


def test_dense_layers_without_bias_are_stacked():
    nets = [network("mlp", "batch", seed, torch.float64) for seed in range(3)]
    for net in nets:
        for module in net.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_parameter("bias", None)
    check_stacked(nets, *batch("mlp", size=5, dtype=torch.float64))


def check_stacked(nets, images, _):
    shapes = [p.shape for p in nets[0].parameters()]
    wide = stack(nets)
    values = wide.state_dict()
    for run, net in enumerate(nets):
        assert values.keys() == net.state_dict().keys()
        for key, value in net.state_dict().items():
            assert torch.equal(unstack(values[key], run, 3), value), key
    for train in (True, False):
        logits_NRK = wide.train(train)(images).unflatten(1, (3, 10))
        for run, net in enumerate(nets):
            torch.testing.assert_close(logits_NRK[:, run], net.train(train)(images), rtol=1e-10, atol=1e-10)
    assert [p.shape for p in nets[0].parameters()] == shapes


def test_the_device_is_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.device(Config(runtime=Runtime(device="auto"))) == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"runtime\.device = 'cuda:1': torch sees no GPU here; use runtime\.device=cpu"
    ):
        engine.device(Config(runtime=Runtime(device="cuda:1")))


@pytest.mark.parametrize("asked", ["auto", "plain"])
def test_every_engine_keeps_the_numbers(asked):
    net = network("lenet", "batch", 0)
    config = Config(runtime=Runtime(engine=asked), optim=Optim(momentum=0.9, weight_decay=0.0))
    made = engine.build_engine([config], [net], torch.device("cpu"))
    ((loss, _),) = plain(net, [batch("lenet")], config.optim, 0.1)
    assert made.step(batch("lenet"), [0.1]).loss_R.item() == pytest.approx(loss, abs=1e-5)
    assert engine.facts(Config(), 1, torch.device("cpu"))["device"] == "cpu"


def test_parameters_that_have_no_part_in_the_loss_have_gradients_of_zero():
    """As branches that a pass skips; they go on along their velocity and decay, like every other."""
    net = network("lenet", "batch", 0)
    net.idle = nn.Parameter(torch.ones(3))
    made = lockstep([net], Optim(momentum=0.9, weight_decay=0.1))
    for _ in range(2):
        made.step(batch("lenet"), [0.5])
    velocity, weight = 0.0, 1.0
    for _ in range(2):
        velocity = 0.9 * velocity + 0.1 * weight
        weight -= 0.5 * velocity
    torch.testing.assert_close(made.state()["idle"], torch.full((3,), weight))
