"""The kernels on other compilers and processors than this machine's, as far as these can be had."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import emulated
import pytest
import torch
from test_kernels import close, conv_of, gradients, images_of, norm_of
from torch import Tensor, nn

from bnstudy.training.engine.kernels import build, conv3x3, norm_relu, pointwise, pooled_conv
from bnstudy.training.engine.kernels.conv3x3 import Conv3x3
from bnstudy.training.engine.kernels.norm_relu import NormReLU
from bnstudy.training.engine.kernels.pointwise import PointwiseConv
from bnstudy.training.engine.kernels.pooled_conv import PooledConv

MODULES = (norm_relu, pointwise, pooled_conv, conv3x3)
CACHED = (*(module._library for module in (norm_relu, pointwise, pooled_conv)), conv3x3._compiled)
# Vectors are passed among static functions alone; without OpenMP its pragmas are unknown.
WARNINGS = ["-Wall", "-Wno-psabi", "-Wno-unknown-pragmas"]
PROCESSORS = {  # and their floats in a vector
    "AVX2": (["-march=haswell"], 8),
    "AVX-512": (["-march=skylake-avx512"], 16),
    "AMX": (["-march=sapphirerapids"], 16),
    "64-bit Arm": (["--target=aarch64-linux-gnu", "-march=armv8-a"], 8),
}


def kernels(lanes: int, unit: bool) -> list[tuple[str, dict[str, Any]]]:
    """Every kernel with the macros of one layer, as the engine asks for them with so many floats in a vector.

    That of the matrix unit simulates it where the processor has none.
    """
    asked: list[tuple[str, dict[str, Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "lanes", lambda: lanes)
        patch.setattr(build, "library", lambda name, **macros: asked.append((name, macros)))  # and returns None
        for dtype in build.TYPES:
            norm_relu._library.__wrapped__(dtype, 16, **build.of_norm(None))
        for real in pooled_conv.REALS.values():
            pooled_conv._library.__wrapped__(real, 6, 16, 5, 14, 14, 2, **build.of_norm(None))
        for dtype in build.TYPES:
            for stride in (1, 2):
                conv3x3._compiled.__wrapped__("winograd", dtype, stride, 32, 16)
            pointwise._library.__wrapped__(dtype, 32, 16)
        for stride in (1, 2):
            conv3x3._compiled.__wrapped__("amx", torch.bfloat16, stride, 32, 16)
            asked[-1][1].update({} if unit else {"SIMULATED": 1})
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("compiler", ["gcc", "clang", emulated.COMPILER])
def test_they_compile_without_a_warning(tmp_path: Path, compiler: str, processor: str) -> None:
    flags, lanes = PROCESSORS[processor]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    if (compiler == "gcc" and "Arm" in processor) or (compiler == emulated.COMPILER and "Arm" not in processor):
        pytest.skip("this compiler has one family of processors")
    if compiler == emulated.COMPILER:
        flags = flags[1:]
    if compiler == "clang" and "Arm" in processor and not Path(emulated.SYSROOT).is_dir():
        pytest.skip("there are no libraries of that processor")
    if emulated.refuses(compiler, flags):
        pytest.skip("this compiler does not know that processor")
    for name, macros in kernels(lanes, unit=processor == "AMX"):
        done = emulated.compile_kernel(compiler, [*flags, *WARNINGS], name, {"LANES": lanes, **macros}, tmp_path / "so")
        assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def forgotten() -> Iterator[None]:
    """Within, no kernel is taken that was compiled before, and none that was compiled here is taken after."""
    for each in CACHED:
        each.cache_clear()
    build.reset_uses()
    yield
    for each in CACHED:
        each.cache_clear()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with AVX-512, but for the instructions: vectors of 16 numbers in several registers."""
    if build.compiler() is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(build, "lanes", lambda: 16)
    with forgotten():
        yield


@pytest.mark.parametrize(
    "channels", [(48, 80), *(pytest.param(each, marks=pytest.mark.slow) for each in ((96, 112), (32, 128)))]
)
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_with_wide_vectors_a_convolution_takes_any_number_of_them(
    wide: None, channels: tuple[int, int], size: int, stride: int
) -> None:
    torch.manual_seed(0)
    conv = conv_of(*channels, stride=stride, size=size)
    kind, name = (Conv3x3, "winograd") if size == 3 else (PointwiseConv, "pointwise")
    same(kind(conv), copy.deepcopy(conv), [images_of(2, channels[0], 8, 10)], name, 1e-9)


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not emulated.there:
        pytest.skip(f"there is no {emulated.COMPILER} or no {emulated.EMULATOR}")
    for module in MODULES:
        monkeypatch.setattr(module, "pointers", emulated.pointers)
    monkeypatch.setattr(
        build, "library", lambda name, **macros: emulated.Library(name, {"LANES": 8, **macros}, tmp_path / name)
    )
    with forgotten():
        yield


def same(mine: nn.Module, twin: nn.Module, images: list[Tensor], kernel: str, tolerance: float) -> None:
    """Output, gradients of images and parameters, and running statistics."""
    inputs = [[each.clone().requires_grad_() for each in images] for _ in range(2)]
    ours, theirs = mine(*inputs[0]), twin(*inputs[1])
    assert kernel in build.used and not build.missed
    close(ours, theirs, tolerance)
    weights = torch.randn_like(theirs)
    both = [[*of, *module.parameters()] for of, module in zip(inputs, (mine, twin), strict=True)]
    for a, b in zip(gradients(ours, weights, both[0]), gradients(theirs, weights, both[1]), strict=True):
        close(a, b, tolerance)
    for a, b in zip(mine.buffers(), twin.buffers(), strict=True):
        close(a.double(), b.double(), tolerance)


class Plain(nn.Module):
    """Norm, addition and ReLU as torch has them."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        return torch.relu(self.norm(x) + added)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_on_arm_a_norm_with_addition_and_relu_is_torchs(arm: None, threads: int) -> None:
    torch.manual_seed(0)
    norm = norm_of(16, True)
    assert norm is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = [images_of(3, 16, 5, 5) + 30, images_of(3, 16, 5, 5)]
        same(NormReLU(norm), Plain(copy.deepcopy(norm)), images, "norm_relu", 1e-7)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_on_arm_winograds_convolution_is_the_convolution(arm: None, stride: int) -> None:
    torch.manual_seed(0)
    conv = conv_of(16, 32, stride=stride)
    twin = nn.Sequential(copy.deepcopy(conv), nn.ReLU())
    same(Conv3x3(conv, True), twin, [images_of(2, 16, 8, 10)], "winograd", 1e-9)


@pytest.mark.slow
def test_on_arm_a_convolution_of_1x1_is_the_convolution(arm: None) -> None:
    torch.manual_seed(0)
    conv = conv_of(16, 32, stride=2, size=1)
    same(PointwiseConv(conv), copy.deepcopy(conv), [images_of(2, 16, 9, 10)], "pointwise", 1e-9)


@pytest.mark.slow
def test_on_arm_a_pooled_convolution_is_torchs(arm: None) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 5, padding=2).double(), norm_of(6, True)
    assert norm is not None
    twin = nn.Sequential(copy.deepcopy(conv), copy.deepcopy(norm), nn.MaxPool2d(2))
    images = torch.randn(3, 3, 12, 9, dtype=torch.float64)
    same(PooledConv(conv, norm, 1), twin, [images], "pooled_conv", 1e-7)
