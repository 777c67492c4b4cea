"""What the kernels compute is what torch's operations compute, in values, gradients and statistics."""

from __future__ import annotations

import copy
import ctypes
import subprocess
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.config.schema import Config, Runtime
from bnstudy.training import engine
from bnstudy.training.engine.fuse import Fused
from bnstudy.training.engine.kernels import bf16, build, conv3x3, norm_relu, pointwise, pooled_conv
from bnstudy.training.engine.kernels.conv3x3 import Conv3x3
from bnstudy.training.engine.kernels.norm_relu import NormReLU
from bnstudy.training.engine.kernels.pointwise import PointwiseConv
from bnstudy.training.engine.kernels.pooled_conv import PooledConv

compiled = pytest.mark.skipif(build.compiler() is None, reason="there is no C compiler")


UNITS = "none", "vectors", "AMX", "AMX simulated"  # what multiplies bf16


def has_amx() -> bool:
    return build.has_amx() and conv3x3._compiled("amx", torch.bfloat16, 1, 16, 16) is not None


def with_unit(unit: str, patch: pytest.MonkeyPatch) -> str:
    """As if the processor had this unit, or really with it; the name of the kernel for 3x3 convolutions of bf16."""
    if unit == "AMX" and not has_amx():
        pytest.skip("this processor has no AMX, or the compiler or the system knows none")
    amx, library = unit.startswith("AMX"), build.library
    patch.setattr(build, "has_matrix_unit", lambda: amx)
    patch.setattr(build, "has_amx", lambda: amx)
    patch.setattr(build, "multiplies_bf16", lambda: unit != "none")
    if unit == "AMX simulated":
        simulated = {"amx": {"SIMULATED": 1}}
        patch.setattr(build, "library", lambda name, **macros: library(name, **macros, **simulated.get(name, {})))
        patch.setattr(conv3x3, "_compiled", conv3x3._compiled.__wrapped__)
    return "amx" if amx else "winograd"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def close(ours: Tensor | None, theirs: Tensor | None, tolerance: float = 1e-9) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def norm_of(channels: int, exists: bool, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d | None:
    """With gamma of either sign: of a negative one, the largest input is the smallest output."""
    if not exists:
        return None
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return norm.to(dtype)


def gradients(output: Tensor, weights: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((output * weights).sum(), wanted)


@compiled
def test_the_kernels_compile_here() -> None:
    for real in ("float", "double"):
        assert pooled_conv._library(real, 1, 6, 5, 28, 28, 0, **build.of_norm(None)) is not None
        assert pooled_conv._library(real, 6, 16, 5, 14, 14, 2, **build.of_norm(None)) is not None
    for dtype in build.TYPES:
        assert norm_relu._library(dtype, 16, **build.of_norm(None)) is not None
    for dtype in build.TYPES:
        assert all(conv3x3._library(dtype, stride, 16, 32) is not None for stride in (1, 2))
        assert pointwise._library(dtype, 16, 32) is not None


@st.composite
def layers(draw):
    """Networks side by side, a norm or none, and images with an area that is all alike, whose pooled places tie.

    Where it is not 0, or a place sees nothing but padding, rounding chooses between places that see the same: only the
    input's gradient depends on which.
    """
    kernel, padding = draw(st.sampled_from([1, 2, 3, 4, 5])), draw(st.integers(0, 2))
    runs, shared = draw(st.sampled_from([(1, False), (2, False), (3, True)]))
    entering, leaving = draw(st.sampled_from([(1, 6), (3, 4), (6, 16), (2, 32)]))
    height, width = (draw(st.sampled_from([6, 9, 12, 19, 24])) for _ in range(2))  # odd sides too
    torch.manual_seed(draw(st.integers(0, 100)))
    conv = nn.Conv2d(
        entering * (1 if shared else runs),
        leaving * runs,
        kernel,
        padding=padding,
        groups=1 if shared else runs,
        bias=draw(st.booleans()),
    ).double()
    norm = norm_of(leaving * runs, draw(st.booleans()))
    images = torch.rand(draw(st.integers(1, 5)), conv.in_channels, height, width, dtype=torch.float64)
    images[:, :, : height // 2] = draw(st.sampled_from([0.0, 0.5]))
    return conv, norm, runs, images


@pytest.mark.parametrize("kernel", range(1, pooled_conv.MAX_KERNEL + 1))
def test_a_rows_outputs_from_its_points_are_those_of_the_convolution(kernel: int) -> None:
    """In exact numbers, y = A' [(G g) * (B d)]; and the rows of a pair of points differ in the signs of odd columns."""
    points, tile = pooled_conv._points(kernel)
    a, b, g = (np.array(rows) for rows in pooled_conv._matrices(points, tile, kernel).values())
    draw = np.random.default_rng(0)
    row, taps = (np.array([Fraction(int(n)) for n in draw.integers(-9, 10, size)]) for size in (points, kernel))
    assert list(a.T @ ((g @ taps) * (b @ row))) == [sum(row[i : i + kernel] * taps) for i in range(tile)]
    for matrix in (a, b):
        signs = np.array([(-1) ** i for i in range(matrix.shape[1])])
        for point in range(1, points - 1, 2):
            assert list(matrix[point] * signs) == list(matrix[point + 1])


@compiled
@settings(deadline=None, max_examples=25)  # most of them compile a kernel of their own
@given(layers(), st.booleans(), st.integers(1, 3))
def test_pooled_conv_is_convolution_norm_and_pooling(layer, training, num_threads):
    conv, norm, runs, images = layer
    twin = nn.Sequential(copy.deepcopy(conv), copy.deepcopy(norm) or nn.Identity(), nn.MaxPool2d(2)).train(training)
    assert PooledConv.applies(conv, norm, twin[2], runs)
    ours = PooledConv(conv, norm, runs).train(training)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        mine, theirs = images.clone().requires_grad_(conv.groups > 1 or runs == 1), images.clone().requires_grad_()
        found, wanted = ours(mine), twin(theirs)
        close(found, wanted)
        weights = torch.randn_like(wanted)
        have = [*conv.parameters(), *(norm.parameters() if norm is not None else ())]
        for a, b in zip(
            gradients(found, weights, have), gradients(wanted, weights, list(twin.parameters())), strict=True
        ):
            close(a, b, 1e-7)
        sees_pixels = conv.padding[0] < conv.kernel_size[0]
        if mine.requires_grad and sees_pixels and not images[0, 0, 0, 0]:
            (a,), (b,) = gradients(ours(mine), weights, [mine]), gradients(twin(theirs), weights, [theirs])
            close(a, b, 1e-7)
    finally:
        torch.set_num_threads(before)
    if norm is not None:
        for key, value in norm.state_dict().items():
            close(value.double(), twin[1].state_dict()[key].double())


@compiled
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([16, 32, 48]), st.integers(1, 5), st.integers(1, 9), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 100),
)  # fmt: skip
def test_norm_relu_is_norm_addition_and_relu(channels, num, side, normed, adding, training, seed):
    torch.manual_seed(seed)
    norm = norm_of(channels, normed)
    twin = copy.deepcopy(norm)
    if num * side * side == 1 and normed:
        training = False  # torch refuses to take one value's variance
    shape = (num, channels, side, side)
    x, added = (torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last) for _ in "xr")
    x = x + 30  # far from 0: squares would cancel
    mine, theirs = ([t.clone().requires_grad_() for t in (x, added)] for _ in range(2))
    ours = NormReLU(norm).train(training)
    if twin is not None:
        twin.train(training)
    found = ours(mine[0], *(mine[1:] if adding else ()))
    z = theirs[0] if twin is None else twin(theirs[0])
    wanted = torch.relu(z + theirs[1] if adding else z)
    close(found, wanted)
    if norm is not None and not training:
        return  # evaluation is made without gradients
    weights = torch.randn_like(wanted)
    parameters: list[list[Tensor]] = [[] if n is None else list(n.parameters()) for n in (norm, twin)]
    used = 2 if adding else 1
    found_grads = gradients(found, weights, mine[:used] + parameters[0])
    for a, b in zip(found_grads, gradients(wanted, weights, theirs[:used] + parameters[1]), strict=True):
        close(a, b, 1e-7)
    if norm is not None and twin is not None:
        for key, value in norm.state_dict().items():
            close(value.double(), twin.state_dict()[key].double())


def conv_of(into: int, out: int, dtype: torch.dtype = torch.float64, *, stride: int = 1, size: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(into, out, size, stride, padding=size // 2, bias=False)
    return conv.to(dtype).to(memory_format=torch.channels_last)


def images_of(num: int, channels: int, *sides: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, channels, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last)


@compiled
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(3, 1), (3, 2), (1, 2)]),
    st.sampled_from([(16, 16), (16, 32), (32, 16), (64, 64), (48, 16)]), st.integers(1, 5),
    st.sampled_from([(8, 8), (8, 10), (9, 11), (16, 16), (32, 4), (6, 19), (5, 13), (1, 64)]), st.booleans(),
    st.booleans(), st.integers(1, 3), st.integers(0, 100),
)  # fmt: skip
def test_a_wide_convolution_is_the_convolution(kind, channels, num, sides, relu, adds, num_threads, seed):
    """Of 3x3 by Winograd's algorithm, at strides 1 and 2, with its ReLU and an addition; of 1x1 at stride 2."""
    torch.manual_seed(seed)
    size, stride = kind
    conv, relu = conv_of(*channels, stride=stride, size=size), relu and size == 3
    ours = Conv3x3(conv, relu) if size == 3 else PointwiseConv(conv)
    assert ours.applies(conv)
    x, added = images_of(num, channels[0], *sides), images_of(num, channels[1], *sides)
    given = [x, added] if relu and adds and stride == 1 else [x]
    mine, theirs = ([each.clone().requires_grad_() for each in given] for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found, wanted = ours(*mine), conv(theirs[0])
        wanted = sum(theirs[1:], wanted)
        wanted = torch.relu(wanted) if relu else wanted
        assert "_Convolved" in type(found.grad_fn).__name__  # torch did not do both
        close(found, wanted)
        weights = torch.randn_like(wanted)
        for a, b in zip(
            gradients(found, weights, [*mine, conv.weight]),
            gradients(wanted, weights, [*theirs, conv.weight]),
            strict=True,
        ):
            close(a, b)
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize(("kind", "stride"), [(Conv3x3, 1), (Conv3x3, 2), (PointwiseConv, 2)])
def test_rounding_errors_of_wide_convolutions_are_of_the_size_of_torchs(kind: type[nn.Module], stride: int) -> None:
    """Against float64, relative, as norms over a mini-batch: output, gradient of the input, gradient of the kernel."""
    torch.manual_seed(0)
    for width, side in ((16, 32), (32, 16), (64, 8))[: 4 - stride]:  # those of ResNets
        conv = conv_of(width, stride * width, torch.float32, stride=stride, size=3 if kind is Conv3x3 else 1)
        x = images_of(128, width, side, side, dtype=torch.float32)
        weights = images_of(128, stride * width, side // stride, side // stride, dtype=torch.float32)
        errors = []
        for module in (kind(conv), conv):
            exact = copy.deepcopy(conv).double()
            entering, twin = x.clone().requires_grad_(), x.double().requires_grad_()
            output, wanted = module(entering), exact(twin)
            found = (output, *gradients(output, weights, [entering, conv.weight]))
            truth = (wanted, *gradients(wanted, weights.double(), [twin, exact.weight]))
            errors.append([((a - b).norm() / b.norm()).item() for a, b in zip(found, truth, strict=True)])
        factors = [ours / theirs for ours, theirs in zip(*errors, strict=True)]
        assert max(factors) < 3 and max(errors[0][:2]) < 1e-6 and errors[0][2] < 1.4e-6, errors


@compiled
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_is_not_lost_in_a_convolution(bad: float, stride: int) -> None:
    """It may spread over its tile, where torch's stays under the kernel."""
    torch.manual_seed(0)
    conv, x = conv_of(16, 16, stride=stride), images_of(2, 16, 8 * stride, 8 * stride)
    x[1, 3, 6 * stride, 5 * stride - stride // 2] = bad
    found, wanted = Conv3x3(conv)(x), conv(x)
    rectified = Conv3x3(conv, relu=True)(x)
    assert rectified[found.isnan()].isnan().all() and rectified[1].isnan().any() and rectified[0].min() == 0
    assert not found[~wanted.isfinite()].isfinite().any()
    assert found[0].isfinite().all() and found[1, :, :4].isfinite().all()


@compiled
def test_torch_convolves_what_the_kernel_cannot() -> None:
    conv = conv_of(16, 16, torch.float32)
    for x in (
        images_of(2, 16, 4, 4, dtype=torch.float32),  # few pixels
        torch.randn(2, 16, 8, 8),  # the other layout
    ):
        assert torch.equal(Conv3x3(conv)(x), conv(x))
    x = images_of(2, 16, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3x3(conv)(x).dtype == torch.bfloat16
    for other in (
        nn.Conv2d(16, 16, 3, padding=1),  # a bias
        nn.Conv2d(16, 16, 3, padding=1, stride=3, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=(1, 2), bias=False),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(16, 16, 1, bias=False),
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.Conv2d(256, 256, 3, padding=1, bias=False),
    ):
        assert not Conv3x3.applies(other)
    for other in (
        conv,
        nn.Conv2d(16, 16, 1, bias=False),
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(16, 16, 1, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 16, 1, stride=2, bias=False),
    ):
        assert not PointwiseConv.applies(other)
    assert Conv3x3.applies(conv) and PointwiseConv.applies(nn.Conv2d(16, 16, 1, stride=2, bias=False))
    one = nn.Conv2d(16, 32, 1, stride=2, bias=False)
    for x in (images_of(2, 16, 4, 4, dtype=torch.float32), torch.randn(2, 16, 8, 8)):
        assert torch.equal(PointwiseConv(one)(x), one(x))


@compiled
def test_bf16_is_read_and_rounded_as_torch_does() -> None:
    torch.manual_seed(0)
    x = (torch.randn(4, 32, 8, 8) * 3).bfloat16().contiguous(memory_format=torch.channels_last)
    added = torch.randn(4, 32, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    assert torch.equal(NormReLU(None)(x, added), torch.relu(x.float() + added.float()).bfloat16())
    norm = norm_of(32, True, torch.float32)
    wanted = torch.relu(copy.deepcopy(norm)(x.float()) + added.float())  # type: ignore[misc]
    found = NormReLU(norm)(x, added)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=1 / 128, atol=1e-6)


class Faulty(nn.Module):
    """Layers that do not fit one another, or that torch combines as no kernel does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.relu, self.kind = conv_of(16, 32 if kind == "channels" else 16), nn.ReLU(), kind
        self.then = conv_of(16, 16)
        self.norm = norm_of(32 if kind == "features" else 16, True)
        self.term = nn.Parameter(torch.randn(1, 16, 8, 8, dtype=torch.float64))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        if self.kind == "pooled":
            z = self.pool(self.then(torch.cat([x, x], 1)))
        else:
            z = self.norm(self.then(self.relu(self.conv(x))))
        z = z + z if self.kind == "twice" else z + self.term if self.kind == "one for all" else z
        y: Tensor = self.relu(z)
        return y

    def train(self, mode: bool = True) -> Faulty:
        super().train(mode)
        if self.kind == "frozen" and self.norm is not None:
            self.norm.eval()
        return self


@compiled
@pytest.mark.parametrize("kind", ["channels", "features", "pooled"])
def test_layers_that_do_not_fit_are_refused_as_by_torch(kind: str) -> None:
    """The kernels would read and write beyond the arrays."""
    torch.manual_seed(0)
    net, x = Faulty(kind), images_of(3, 16, 8, 8)
    with pytest.raises(RuntimeError) as wanted:
        copy.deepcopy(net)(x)
    with pytest.raises(RuntimeError) as found:
        Fused(net, 1)(x)
    assert str(found.value) == str(wanted.value)


@compiled
@pytest.mark.parametrize("kind", ["twice", "one for all", "frozen"])
def test_what_a_kernel_does_not_compute_is_torchs(kind: str) -> None:
    """A norm's output added to itself; one image for all; statistics that are frozen in training."""
    torch.manual_seed(0)
    net = Faulty(kind).train()
    twin, x = copy.deepcopy(net), images_of(3, 16, 8, 8)
    found, wanted = Fused(net, 1)(x), twin(x)
    close(found, wanted)
    weights = torch.randn_like(wanted)
    for name, parameter in net.named_parameters():
        if kind == "one for all" or name != "term":
            (ours,), (torchs,) = (
                torch.autograd.grad(output, [of], weights, retain_graph=True)
                for output, of in ((found, parameter), (wanted, twin.get_parameter(name)))
            )
            close(ours, torchs)


def test_a_norm_whose_parameters_are_of_bf16_is_torchs_own() -> None:
    torch.manual_seed(0)
    norm = norm_of(16, True, torch.float32)
    assert norm is not None
    norm, x = norm.bfloat16(), images_of(4, 16, 8, 8, dtype=torch.float32).bfloat16()
    assert torch.equal(NormReLU(copy.deepcopy(norm))(x), torch.relu(norm(x)))


@compiled
@pytest.mark.parametrize(
    ("size", "stride", "relu"), [(3, 1, False), (3, 1, True), (3, 2, False), (3, 2, True), (1, 2, False)]
)
@pytest.mark.parametrize("unit", UNITS)
def test_convolutions_of_bf16_round_what_autocast_rounds(
    size: int, stride: int, relu: bool, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin computes in float64 from input, weights and gradient as bf16 has them."""
    kernel = with_unit(unit, monkeypatch)
    torch.manual_seed(0)
    conv = conv_of(16, 32, torch.float32, stride=stride, size=size)
    x = images_of(3, 16, 8, 8, dtype=torch.float32).requires_grad_()
    slope = images_of(3, 32, 8 // stride, 8 // stride, dtype=torch.float32).bfloat16()
    build.reset_uses()
    with torch.autocast("cpu", torch.bfloat16):
        y = (Conv3x3(conv, relu) if size == 3 else PointwiseConv(conv))(x)
    assert y.dtype == torch.bfloat16 and build.used == {kernel if size == 3 else "pointwise"}
    assert y.is_contiguous(memory_format=torch.channels_last)
    twin = conv_of(16, 32, stride=stride, size=size)
    twin.load_state_dict({"weight": conv.weight.detach().bfloat16().double()})
    exact = x.detach().bfloat16().double().requires_grad_()
    wanted = torch.relu(twin(exact)) if relu else twin(exact)
    torch.testing.assert_close(y.double(), wanted, rtol=1 / 256, atol=1e-6)
    kept = (y != 0).double() if relu else 1.0  # a value next to 0 may be rounded to it
    grad_x, grad_weight = torch.autograd.grad(y, [x, conv.weight], slope)
    (wanted if not relu else twin(exact) * kept).backward(slope.double())
    assert exact.grad is not None and twin.weight.grad is not None
    torch.testing.assert_close(grad_x.double(), exact.grad, rtol=1 / 256, atol=1e-5)
    torch.testing.assert_close(grad_weight.double(), twin.weight.grad, rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("unit", ["float32", *UNITS[1:]])
@pytest.mark.parametrize("case", ["shortcut", "another layout", "of x no gradient", "of nothing else"])
def test_an_addition_and_relu_with_the_convolution_leave_its_bits(
    case: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other is the twin: as in torch, the convolution's output is rounded before the addition."""
    if half := unit != "float32":
        with_unit(unit, monkeypatch)
    torch.manual_seed(0)
    conv, dtype = conv_of(16, 32, torch.float32), torch.bfloat16 if half else torch.float32
    x, added, slope = (images_of(3, width, 8, 8, dtype=torch.float32).to(dtype) for width in (16, 32, 32))
    added = added.contiguous() if case == "another layout" else added
    apart, found = Conv3x3(conv), []
    for together in (True, False):
        mine, other = x.clone(), added.clone()
        wanted = [each.requires_grad_() for each in (mine, other, conv.weight.requires_grad_())]
        if case == "of x no gradient":
            wanted.remove(mine.requires_grad_(False))
        if case == "of nothing else":
            wanted = [other]
            mine.requires_grad_(False), conv.weight.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = Conv3x3(conv, relu=True)(mine, other) if together else NormReLU(None)(apart(mine), other)
        assert (len(y.grad_fn.next_functions) > 2) is (together and case != "another layout")
        found.append([y.detach(), *torch.autograd.grad(y, wanted, slope)])
    assert found[0][0].min() == 0 and found[0][0].dtype == dtype
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def rounded(conv: nn.Conv2d, x: Tensor, slope: Tensor) -> list[Tensor]:
    """A convolution's output in bf16, and the gradients of its input and parameters."""
    mine = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = bf16.RoundedConv(conv)(mine)
    assert y.dtype == torch.bfloat16
    return [y, *torch.autograd.grad(y, [mine, *conv.parameters()], slope)]


def test_other_convolutions_of_bf16_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, stride=2)
    x, slope = torch.randn(2, 3, 9, 9), torch.randn(2, 8, 4, 4).bfloat16()
    found = []
    for multiplied in (True, False):
        monkeypatch.setattr(build, "multiplies_bf16", lambda multiplied=multiplied: multiplied)
        found.append(rounded(conv, x, slope))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours.float(), torchs.float(), rtol=1 / 64, atol=1 / 64)
    assert torch.equal(bf16.RoundedConv(conv)(x), conv(x))


@compiled
def test_ties_are_rounded_to_bf16_as_torch_rounds_them() -> None:
    """Halfway between two numbers, to the even one; infinities and NaN stay, and the largest becomes infinity."""
    powers = 2.0 ** torch.arange(-120, 120, 15).float()
    x = torch.cat([(powers[:, None] * (1 + torch.arange(128) / 128)).flatten(), torch.full((16,), 3.39e38)])
    added = torch.cat([(powers[:, None] / 256).expand(-1, 128).flatten(), torch.full((16,), 1.2e36)])
    x[-8:-6], x[-4:-2], added[-4:] = float("inf"), float("nan"), -float("inf")
    x, added = (v.bfloat16().view(1, -1, 1, 16).permute(0, 3, 1, 2) for v in (x, added))
    wanted = torch.relu(x.float() + added.float()).bfloat16()
    found = NormReLU(None)(x, added)
    assert torch.equal(found.nan_to_num(-1.0), wanted.nan_to_num(-1.0)) and found.isinf().any() and found.isnan().any()


@compiled
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(UNITS[2:]),
    st.sampled_from([(16, 16), (16, 32), (48, 16), (32, 48), (64, 64)]),
    st.sampled_from([(8, 8), (9, 11), (16, 16), (32, 4), (6, 19), (5, 13), (1, 64), (40, 35)]),
    st.sampled_from([1, 2, 3, 5, 9, 17]), st.sampled_from([1, 2]), st.booleans(), st.integers(1, 3), st.integers(0, 99),
)  # fmt: skip
def test_the_matrix_units_convolution_is_the_convolution(unit, channels, sides, num, stride, relu, num_threads, seed):
    """Its tiles end anywhere in an image, and threads anywhere between images; sums are float32."""
    if unit == "AMX" and not has_amx():
        return
    torch.manual_seed(seed)
    conv, before = conv_of(channels[0], channels[1], torch.float32, stride=stride), torch.get_num_threads()
    x = images_of(num, channels[0], *sides, dtype=torch.float32).bfloat16()
    mine, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    torch.set_num_threads(num_threads)
    try:
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            with_unit(unit, patch)
            build.reset_uses()
            found = Conv3x3(conv, relu)(mine)
            weights = torch.randn_like(found)
            ours = torch.autograd.grad(found, [mine, conv.weight], weights)
    finally:
        torch.set_num_threads(before)
    assert build.used == {"amx"}
    exact = copy.deepcopy(conv).double()
    exact.load_state_dict({"weight": conv.weight.detach().bfloat16().double()})
    wanted = exact(theirs)
    kept = (found != 0).double() if relu else 1.0  # a value next to 0 may be rounded to it
    of_x, of_weight = torch.autograd.grad(wanted * kept, [theirs, exact.weight], weights.double())
    torch.testing.assert_close(found.double(), torch.relu(wanted) if relu else wanted, rtol=1 / 256, atol=1e-5)
    torch.testing.assert_close(ours[0].double(), of_x, rtol=1 / 256, atol=1e-5)
    assert (ours[1].double() - of_weight).norm() < 2e-6 * of_weight.norm()


@compiled
@pytest.mark.parametrize("unit", UNITS[2:])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_the_matrix_unit_leaves_what_is_not_finite_under_the_kernel(
    bad: float, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_unit(unit, monkeypatch)
    torch.manual_seed(0)
    for channels, stride in ((16, 1), (16, 2), (32, 1)):
        conv = conv_of(channels, 16, torch.float32, stride=stride)
        x = images_of(2, channels, 12, 12, dtype=torch.float32).bfloat16()
        x[1, 3, 6, 7] = bad
        build.reset_uses()
        with torch.autocast("cpu", torch.bfloat16):
            found, wanted = Conv3x3(conv)(x), conv(x)
        assert build.used == {"amx"}
        assert torch.equal(found.isfinite(), wanted.isfinite()) and not found.isfinite().all()


@compiled
def test_torch_and_the_kernel_take_turns_at_the_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has tiles of shapes of its own, and finds its own after the other."""
    with_unit("AMX", monkeypatch)
    build.reset_uses()
    torch.manual_seed(0)
    stem, conv = conv_of(3, 16, torch.float32), conv_of(16, 16, torch.float32)
    x, a = images_of(4, 3, 16, 16, dtype=torch.float32), torch.randn(100, 100).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = []
        for _ in range(2):
            found.append([a @ a, z := stem(x), Conv3x3(conv)(z), a @ a])
    assert all(map(torch.equal, *found)) and torch.equal(found[0][0], found[0][3])
    assert build.used == {"amx"}


TILES = """
#include <immintrin.h>
static unsigned char before[64] = {1, [16] = 48, [48] = 5}, after[64];
void configure(void) { _tile_loadconfig(before); }
int kept(void) {
    _tile_storeconfig(after), _tile_release();
    return !__builtin_memcmp(before, after, 64);
}
"""


@compiled
def test_the_shapes_of_others_tiles_are_left_as_they_were(
    threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_unit("AMX", monkeypatch)
    torch.set_num_threads(1)
    conv, x = conv_of(16, 16, torch.float32), images_of(2, 16, 8, 8, dtype=torch.float32).bfloat16().requires_grad_()
    source, target = tmp_path / "tiles.c", tmp_path / "tiles.so"
    source.write_text(TILES)
    command = [str(build.compiler()), "-march=native", "-O1", "-fPIC", "-shared", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    others = ctypes.CDLL(str(target))
    with torch.autocast("cpu", torch.bfloat16):
        others.configure()
        y = Conv3x3(conv)(x)
        assert others.kept()
        others.configure()
        y.backward(torch.ones_like(y))
        assert others.kept()


@compiled
def test_without_leave_to_use_the_matrix_unit_torch_convolves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_unit("AMX simulated", monkeypatch)
    build.say.cache_clear()

    class Refused:
        def allowed(self) -> int:
            return 0

    monkeypatch.setattr(build, "library", lambda name, **macros: Refused())
    torch.manual_seed(0)
    conv, x = conv_of(16, 16, torch.float32), images_of(2, 16, 8, 8, dtype=torch.float32).bfloat16()
    build.reset_uses()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(Conv3x3(conv)(x), conv(x)) for _ in range(2))
    assert (build.used, build.missed) == (set(), {"amx"})
    assert capsys.readouterr().err.count("amx.c") == 1
    build.reset_uses()


@compiled
@pytest.mark.parametrize("size", [1, 3])
def test_a_kernels_gradient_at_a_stride_is_summed_in_float32(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no matrix unit. Where the processor multiplies bf16, the output of 3x3 is torch's own."""
    monkeypatch.setattr(build, "has_amx", lambda: False)
    torch.manual_seed(0)
    conv = conv_of(16, 32, torch.float32, stride=2, size=size)
    x, slope = images_of(3, 16, 8, 8, dtype=torch.float32), images_of(3, 32, 4, 4, dtype=torch.float32).bfloat16()
    monkeypatch.setattr(build, "multiplies_bf16", lambda: True)
    found = []
    for unit in (False, True):
        monkeypatch.setattr(build, "has_matrix_unit", lambda unit=unit: unit)
        mine = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = (Conv3x3 if size == 3 else PointwiseConv)(conv)(mine)
        assert (type(y.grad_fn).__name__ == "_ConvolvedBackward") is not unit
        found.append([y, *torch.autograd.grad(y, [mine, conv.weight], slope)])
    assert size == 1 or torch.equal(found[0][0], found[1][0])
    exact = conv2d_weight(x.bfloat16().double(), conv.weight.shape, slope.double(), 2, size // 2)
    torch.testing.assert_close(found[0][2].double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][2].double(), exact, rtol=1 / 64, atol=1 / 64)


@compiled
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_passes_through_and_stays_in_its_group(bad: float) -> None:
    torch.manual_seed(0)
    conv, pool = nn.Conv2d(1, 12, 5), nn.MaxPool2d(2)
    with torch.no_grad():
        conv.weight[6:] = bad  # the second of two runs
    norm = norm_of(12, True, torch.float32)
    images = torch.rand(3, 1, 12, 12)
    for each in (norm, None):
        found = PooledConv(conv, copy.deepcopy(each), 2)(images)
        wanted = pool(conv(images) if each is None else copy.deepcopy(each)(conv(images)))
        torch.testing.assert_close(found[:, :6], wanted[:, :6])
        assert not found[:, 6:].isfinite().any() and not wanted[:, 6:].isfinite().any()  # infinities may become NaN
        (gradient,) = torch.autograd.grad(found.sum(), [conv.weight])
        assert gradient[:6].isfinite().all()
    x = torch.full((2, 16, 3, 3), bad).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(NormReLU(None)(x), torch.relu(x), equal_nan=True)


@compiled
def test_one_number_of_threads_one_result(threads: None) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 10, (19,))
    resnet = built("resnet", (3, 32, 32), "batch", depth=8).to(memory_format=torch.channels_last)
    small, wide = torch.rand(19, 1, 28, 28), torch.rand(19, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def found() -> list[Tensor]:
        numbers = []
        for net, images in ((copy.deepcopy(lenet("batch")), small), (copy.deepcopy(resnet), wide)):
            loss = functional.cross_entropy(Fused(net, 1)(images), labels)
            numbers += [loss, *torch.autograd.grad(loss, list(net.parameters()))]
        return numbers

    for count in (1, 2, 3):
        torch.set_num_threads(count)
        first = found()
        for _ in range(3):
            assert all(map(torch.equal, first, found()))


def lenet(norm: str, **options: object) -> nn.Module:
    return built("lenet", (1, 28, 28), norm, **options)


def built(name: str, shape: tuple[int, int, int], norm: str, **options: object) -> nn.Module:
    factory = norms.Factory(norm, plugins.defaults("norms", norm))
    return models.build(name, plugins.defaults("models", name) | options, factory, "xavier_uniform", shape, 10, 0)


def kernels_in(net: nn.Module) -> list[str]:
    """Of the training pass, in the order of its calls."""
    made = Fused(net, 1)._training
    assert isinstance(made, torch.fx.GraphModule)
    modules = dict(made.named_modules())
    called = [type(modules[str(n.target)]).__name__ for n in made.graph.nodes if n.op == "call_module"]
    return [name for name in called if name in ("PooledConv", "NormReLU", "Conv3x3", "PointwiseConv")]


def test_what_is_fused() -> None:
    assert kernels_in(lenet("batch")) == kernels_in(lenet("none")) == ["PooledConv"] * 2
    assert kernels_in(lenet("batch", pooling="average")) == []
    assert kernels_in(lenet("batch_scratch")) == []  # the lesson is computed as it is written
    resnet = [built("resnet", (3, 32, 32), norm, depth=20) for norm in ("batch", "none", "batch_scratch")]
    counted = [Counter(kernels_in(net)) for net in resnet]
    wide = {"Conv3x3": 18, "PointwiseConv": 2}  # two blocks stride
    assert counted[0] == {"NormReLU": 19, **wide}  # the stem's norm, and two a block
    assert counted[1] == {"NormReLU": 1, **wide}  # the stem's ReLU; additions and theirs belong to convolutions
    assert counted[2] == {"NormReLU": 19, **wide}  # each ReLU, none with its norm
    strided = lenet("batch")
    strided.conv1.stride = (2, 2)  # type: ignore[assignment]
    assert kernels_in(strided) == ["PooledConv"]


def test_what_is_behind_a_convolution_is_computed_with_it() -> None:
    for norm, num in (("none", 18), ("batch", 0)):  # the first's ReLU in a block, the second's addition and ReLU
        made = Fused(built("resnet", (3, 32, 32), norm, depth=20), 1)._training
        assert isinstance(made, torch.fx.GraphModule)
        assert sum(isinstance(m, Conv3x3) and m.relu for m in made.modules()) == num
        modules = dict(made.named_modules())
        called = [modules[str(node.target)] for node in made.graph.nodes if node.op == "call_module"]
        left = [module for module in called if type(module) is bf16.RoundedConv]
        assert len(left) == 1  # the stem


class Branching(nn.Module):
    """Two uses of x: by a convolution, and by an addition behind it, or before it, or in another way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.norm, self.relu, self.kind = conv_of(16, 16), norm_of(16, True), nn.ReLU(), kind
        self.second, self.overwriting = conv_of(16, 16), nn.ReLU(inplace=True)
        if kind.startswith("overwritten"):
            self.norm = nn.Identity()  # type: ignore[assignment]
        if kind == "without a norm":
            self.norm = nn.Identity()  # type: ignore[assignment]
        if kind == "at a stride":
            self.first.stride, self.second = (2, 2), nn.Upsample(scale_factor=2)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        if self.kind.startswith("overwritten"):
            x = x * 1.0
            z = self.norm(self.first(x))
            if self.kind == "overwritten by a module":
                return self.relu(z + self.second(self.overwriting(x)))
            if self.kind == "overwritten by a function":
                return self.relu(z + self.second(torch.relu_(x)))
            if self.kind == "overwritten and added":
                return self.relu(self.second(z) + self.overwriting(x))
            x.mul_(2)
            return self.relu(z + x)
        if self.kind == "before":
            early = self.relu(self.norm(self.second(self.relu(x[:, :16]))) + x)
            return self.first(x) + early
        z = self.relu(self.first(x))
        z = self.norm(self.second(z[:3] if self.kind == "indexed" else z))
        y: Tensor = self.relu((z + x if self.kind == "thrice" else z) + x)
        return y


@compiled
@pytest.mark.parametrize(
    ("kind", "added"),
    [("behind", 1), ("without a norm", 1), ("indexed", 1), ("at a stride", 1), ("before", 0), ("thrice", 0)],
)
def test_a_shortcuts_gradient_is_added_where_the_convolutions_is_written(kind: str, added: int) -> None:
    torch.manual_seed(0)
    net = Branching(kind)
    twin, fused = copy.deepcopy(net), Fused(net, 1)
    assert isinstance(fused._training, torch.fx.GraphModule)
    assert sum(isinstance(m, Conv3x3) and m.passes_on for m in fused._training.modules()) == added
    x = images_of(3, 16, 8, 8)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = fused(mine), twin(theirs)
    close(found, wanted)
    weights = torch.randn_like(wanted)
    ours = gradients(found, weights, [mine, *net.parameters()])
    for a, b in zip(ours, gradients(wanted, weights, [theirs, *twin.parameters()]), strict=True):
        close(a, b)
    for a, b in zip(net.buffers(), twin.buffers(), strict=True):
        close(a.double(), b.double())


@compiled
@pytest.mark.parametrize(
    "kind", [f"overwritten {how}" for how in ("by a module", "by a function", "and added", "by a method")]
)
@pytest.mark.parametrize("norm", [False, True])
def test_what_is_written_over_is_read_before(kind: str, norm: bool) -> None:
    """As the network's file has it, not where the last of the operations that became one stood."""
    torch.manual_seed(0)
    net = Branching(kind)
    net.norm = norm_of(16, True) if norm else net.norm
    twin, fused, x = copy.deepcopy(net), Fused(net, 1), images_of(3, 16, 8, 8)
    for mode in (True, False):
        net.train(mode), twin.train(mode)
        with torch.no_grad():
            close(fused(x.clone()), twin(x.clone()))


@compiled
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("unit", UNITS[1:])
def test_of_bf16_a_shortcuts_gradient_is_rounded_with_the_sum(
    stride: int, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of the two has no gradient, or x is rounded first, as then others use what it was."""
    with_unit(unit, monkeypatch)
    torch.manual_seed(0)
    conv = Conv3x3(conv_of(16, 16, torch.float32, stride=stride))
    conv.passes_on = True
    x = images_of(3, 16, 8, 8, dtype=torch.float32)
    half = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (y, passed), (_, unrounded) = conv(half), conv(x)
    assert torch.equal(passed, half) and unrounded is x
    of_y, of_passed = (torch.randn_like(each) for each in (y, half))
    exact = torch.nn.grad.conv2d_input(x.shape, conv.conv.weight.bfloat16().double(), of_y.double(), stride, padding=1)
    both = torch.autograd.grad([y, passed], half, [of_y, of_passed], retain_graph=True)[0]
    torch.testing.assert_close(both.double(), exact + of_passed.double(), rtol=1 / 256, atol=1e-5)
    alone = [torch.autograd.grad(each, half, of, retain_graph=True)[0] for each, of in ((y, of_y), (passed, of_passed))]
    torch.testing.assert_close(alone[0].double(), exact, rtol=1 / 256, atol=1e-5)
    assert torch.equal(alone[1], of_passed)


def test_what_others_use_is_not_taken_away() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.norm(x)
            return self.relu(z) + z

    net = Forked()
    twin = copy.deepcopy(net)
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    assert kernels_in(net) == []
    assert torch.equal(Fused(net, 1)(x), twin(x))


def test_a_network_that_decides_by_values_computes_as_its_file_says() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.dense(x if x.mean() > 0 else -x)
            return found

    net = Deciding()
    x = -torch.rand(2, 4)
    assert torch.equal(Fused(net, 1)(x), net(x))


def test_training_and_evaluation_are_told_apart() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.training else x - 1

    net = Moody().train()
    fused, x = Fused(net, 1), torch.zeros(1, 2)
    assert fused(x).sum() == 2
    net.eval()
    assert fused(x).sum() == -2
    assert not net.training


def test_without_kernels_torch_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No compiler, or one that fails: then a line says so."""
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    failing.chmod(0o755)
    net = lenet("batch")
    images = torch.rand(4, 1, 28, 28)
    wanted = copy.deepcopy(net)(images)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for path, said in ((None, ""), (str(failing), "pooled_conv.c could not be compiled")):
        monkeypatch.setattr(build, "compiler", lambda path=path: path)
        pooled_conv._library.cache_clear()
        torch.testing.assert_close(Fused(copy.deepcopy(net), 1)(images), wanted)
        assert said in capfd.readouterr().err
    pooled_conv._library.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and none of what was said before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.say.cache_clear()
    build._hung.clear()
    return tmp_path / "cache/bnstudy/kernels"


@compiled
@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "without its checksum"])
def test_a_damaged_kernel_is_compiled_anew(cache: Path, damage: str) -> None:
    """A truncated one would kill the process (SIGBUS), an empty one leave it slow for ever."""
    macros = {**build.TYPES[torch.float32], "C": 16, **build.of_norm(None)}
    assert build.library("norm_relu", **macros) is not None
    (path,) = cache.iterdir()
    good = path.read_bytes()
    middle = len(good) // 2
    path.unlink()  # this process has it mapped: what is damaged is another file
    path.write_bytes(
        {
            "truncated": good[: middle // 2],
            "empty": b"",
            "one byte": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "without its checksum": good[: -build.DIGEST],
        }[damage]
    )
    assert build.library("norm_relu", **macros) is not None
    assert path.read_bytes() == good and list(cache.iterdir()) == [path]


@compiled
def test_a_cache_that_cannot_be_used_leaves_it_to_torch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    macros = {**build.TYPES[torch.float32], "C": 16, **build.of_norm(None)}
    (tmp_path / "cache").write_text("a file")
    assert build.library("norm_relu", **macros) is None
    assert "torch computes instead" in capfd.readouterr().err

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert build.library("norm_relu", **macros) is None and build.library("norm_relu", **macros) is None
    assert capfd.readouterr().err.count("Could not determine home directory.") == 1

    def refused(*arguments: object) -> bytes:
        raise PermissionError(13, "Permission denied")  # another user's home; root would read it

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert build.library("norm_relu", **macros) is None
    assert "Permission denied" in capfd.readouterr().err


def test_a_compiler_that_hangs_is_ended_with_its_children_and_tried_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hanging, calls = tmp_path / "cc", tmp_path / "calls"
    hanging.write_text(f"#!/bin/sh\necho called >> {calls}\nsleep 60 &\nsleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(build, "compiler", lambda: str(hanging))
    monkeypatch.setattr(build, "TIMEOUT_SEC", 0.5)
    for channels in (4, 8):
        assert build.library("norm_relu", **build.TYPES[torch.float32], C=channels) is None
    assert calls.read_text().split() == ["called"] and "timed out" in capfd.readouterr().err


def test_the_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    build.compiler.cache_clear()
    assert build.compiler() is None
    build.compiler.cache_clear()


def test_parameters_stay_the_networks_own() -> None:
    net = lenet("batch")
    names, parameters = list(net.state_dict()), list(net.parameters())
    Fused(net, 1)
    assert list(net.state_dict()) == names
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


OFF = ("an outlier first", "an outlier elsewhere", "far from 0", "steps", "constant", "huge", "two values")


def values_of(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers whose squares, or whose sums of squares, leave what float32 can hold; every channel has its own."""
    x = torch.randn(shape)
    if kind == "an outlier first":
        x = x * 1e-3 + 1
        x[0, :, 0, 0] = 1e3
    elif kind == "an outlier elsewhere":
        x[len(x) // 2, :, -1, -1] = 1e6
    elif kind == "far from 0":
        x = x + 1e5
    elif kind == "steps":
        x = x * 1e-2 + 1e3 * torch.arange(len(x)).view(-1, 1, 1, 1)
    elif kind == "constant":
        x = torch.full(shape, 3.7)
    elif kind == "huge":
        x = x * 1e22
    elif kind == "two values":
        x = torch.where(x > 0, 0.1, -0.1)
    return x


def exact_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by channel: float64, the mean first."""
    x = x_NCHW.double()
    mean = x.mean((0, 2, 3), keepdim=True)
    return mean.flatten(), (x - mean).square().mean((0, 2, 3))


@compiled
@pytest.mark.parametrize("kind", OFF)
@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (3, 128, 5, 7), (2, 48, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norms_variance_is_that_of_float64(
    threads: None, kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """It was 0.4 to 1.6 of it where one value lay far from the others, and negative for larger mini-batches."""
    torch.manual_seed(0)
    x = values_of(kind, shape).to(dtype).contiguous(memory_format=torch.channels_last)
    mean, variance = exact_moments(x)
    count = x.numel() // x.shape[1]
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        library = norm_relu._library_for(x, None, None)
        found = [torch.empty(shape[1], dtype=torch.float64) for _ in range(2)]
        library.moments(*build.pointers(x, *found), *norm_relu._sizes(x))
        torch.testing.assert_close(found[1], variance, rtol=1e-5, atol=0)
        assert ((found[0] - mean).abs() <= 1e-5 * (variance.sqrt() + 1e-7 * mean.abs())).all()
        norm = nn.BatchNorm2d(shape[1], momentum=1.0)
        NormReLU(norm)(x)
        unbiased = variance * count / (count - 1)
        if unbiased.max() < 1e38:  # what a running variance can hold
            torch.testing.assert_close(norm.running_var, unbiased.float(), rtol=1e-5, atol=0)


@compiled
@pytest.mark.parametrize("kind", OFF)
def test_a_norms_gradients_are_no_further_from_float64s_than_torchs(kind: str) -> None:
    """The sums of g x that they need cancel far from 0: torch's, too, are of g (x - mean)."""
    torch.manual_seed(0)
    x = values_of(kind, (20, 16, 6, 6)).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(x.shape)
    norm = norm_of(16, True, torch.float32)
    assert norm is not None
    exact = copy.deepcopy(norm).double()
    found = []
    ours = NormReLU(copy.deepcopy(norm))
    for module, entering in ((ours, x), (nn.Sequential(norm, nn.ReLU()), x), (exact, x.double())):
        entering = entering.clone().requires_grad_()
        output = torch.relu(module(entering))
        found.append([output, *gradients(output, weights, [entering, *module.parameters()])])
    for ours, theirs, truth in zip(*found, strict=True):
        error, torchs = ((each.double() - truth).norm() for each in (ours, theirs))
        assert error <= 2 * torchs + 1e-5 * truth.norm(), (kind, error, torchs)


@compiled
@pytest.mark.parametrize("leaving", [6, 16])
@pytest.mark.parametrize("kind", ["far from 0", "constant", "huge", "as it is"])
def test_a_pooled_convolutions_variance_is_that_of_float64(threads: None, leaving: int, kind: str) -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(1, leaving, 5), torch.rand(9, 1, 28, 28)
    bias, scale = {"far from 0": (1e6, 1), "constant": (3.7, 0), "huge": (0, 1e24)}.get(kind, (0, 1))
    with torch.no_grad():
        conv.weight.mul_(scale), conv.bias.fill_(bias)  # type: ignore[union-attr]
        norm = nn.BatchNorm2d(leaving)
        call = pooled_conv._Call.of(conv, images, 1, norm)
        assert call is not None
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            arrays = images, conv.weight, conv.bias, norm.weight, norm.bias
            _, z, _, _, mean, variance = call.normed(*arrays, norm)  # type: ignore[arg-type]
            z_NCHW = z.view(-1, leaving, 24, 24, build.lanes()).permute(0, 4, 1, 2, 3).flatten(0, 1)[:9]
            torch.testing.assert_close(z_NCHW, conv(images), rtol=1e-5, atol=1e-5 * scale)
            wanted = exact_moments(z_NCHW)
            torch.testing.assert_close(variance, wanted[1], rtol=1e-5, atol=0)
            torch.testing.assert_close(mean, wanted[0], rtol=1e-6, atol=1e-6 * wanted[1].max().sqrt().item())


@compiled
def test_one_value_a_channel_has_no_variance() -> None:
    """As torch has it; there is nothing to divide by."""
    x = torch.randn(1, 16, 1, 1).contiguous(memory_format=torch.channels_last)
    for norm in (NormReLU(nn.BatchNorm2d(16)), nn.BatchNorm2d(16)):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(x)


def kernel_facts(net: nn.Module, *images: Tensor) -> dict[str, object]:
    """What the manifest of a run would say after these passes."""
    build.reset_uses()
    for each in images:
        Fused(copy.deepcopy(net), 1)(each)
    facts = engine.facts(Config(), 1, torch.device("cpu"))
    return {name: facts[name] for name in ("kernels", "kernels_used", "kernels_missed")}


@compiled
def test_the_manifest_says_what_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not what could have: it said kernels where a compiler failed, or where there was nothing for them."""
    images = torch.rand(4, 1, 28, 28)
    none = {"kernels": False, "kernels_used": [], "kernels_missed": []}
    assert kernel_facts(lenet("batch"), images) == none | {"kernels": True, "kernels_used": ["pooled_conv"]}
    assert kernel_facts(lenet("batch", pooling="average"), images) == none  # which has none
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "compiler", lambda: str(failing))
    pooled_conv._library.cache_clear()
    assert kernel_facts(lenet("batch"), images) == none | {"kernels_missed": ["pooled_conv"]}
    pooled_conv._library.cache_clear()


def test_kernels_cannot_be_differentiated_twice() -> None:
    """Their second derivatives would count as 0."""
    net = built("resnet", (3, 32, 32), "batch", depth=8).to(memory_format=torch.channels_last)
    loss = Fused(net, 1)(torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)).square().sum()
    if build.compiler() is not None:
        with pytest.raises(RuntimeError, match="first derivatives alone"):
            torch.autograd.grad(loss, list(net.parameters()), create_graph=True)


@pytest.mark.parametrize(("channels", "layout"), [(16, torch.contiguous_format), (64, torch.channels_last)])
def test_the_layout_in_memory_is_that_of_the_networks_own_convolutions(
    channels: int, layout: torch.memory_format
) -> None:
    """Whatever it is called: the names of two networks decided before."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Flatten(), nn.Linear(36 * channels, 10))
    for name in ("lenet", "of_ones_own"):
        config = Config(model={"name": name}, norm={"name": "none"}, runtime=Runtime(engine="plain"))
        made = engine.build_engine([config], [copy.deepcopy(net)], torch.device("cpu"))
        assert made._network[0].weight.is_contiguous(memory_format=layout)  # type: ignore[attr-defined]
