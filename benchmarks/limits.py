"""What a GPU allows at best: its bandwidth, matrix products and launches, measured, and what that is for ResNet-110."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import measure, tutorial

# Memory traffic of one image's forward and backward pass through ResNet-110 with every activation passing through
# device memory; what stays in the L2 cache can beat the estimate.
TRAFFIC_BYTES = {"fp32": 74e6, "bf16": 37e6}
OPERATIONS = 3 * 2 * 253e6  # an image: 253 million multiply-adds forward (He et al., 2016), twice that backward
BATCH = 128
REPEATS = 20


def measured() -> dict[str, float]:
    """Rates of the GPU, and the images/s that ResNet-110 at batch 128 could reach by each of them."""
    device = torch.device("cuda")
    bandwidth, launches, kernels = copy_bandwidth(device), launch_rate(device), _kernels(device)
    rates = {name: matrix_rate(device, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    return {
        "copy bandwidth (TB/s)": bandwidth / 1e12,
        "matrix products fp32 (TFLOP/s)": rates["fp32"] / 1e12,
        "matrix products bf16 (TFLOP/s)": rates["bf16"] / 1e12,
        "launches (1/s)": launches,
        "kernels of an eager update": float(kernels),
        **{f"images/s by traffic, {name}": bandwidth / traffic for name, traffic in TRAFFIC_BYTES.items()},
        **{f"images/s by operations, {name}": rate / OPERATIONS for name, rate in rates.items()},
        "images/s by launches, eager": launches / kernels * BATCH,
    }


def copy_bandwidth(device: torch.device, num_bytes: int = 2**30) -> float:
    """Bytes read and written a second."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _seconds(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Operations a second of a square matrix product, as torch's settings have it."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    return 2 * size**3 / _seconds(lambda: a @ a, device)


def launch_rate(device: torch.device, number: int = 5000) -> float:
    """Smallest kernels a second, launched one by one."""
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(number):
            x.add_(1)

    return number / _seconds(many, device, repeats=3)


def _kernels(device: torch.device) -> int:
    """How many kernels an update of the tutorial's ResNet-110 with BN launches."""
    network = tutorial.resnet(3, 10, norm=True, depth=110).to(device)
    images, labels = torch.zeros(BATCH, 3, 32, 32, device=device), torch.zeros(BATCH, dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def update() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    update()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        update()
        torch.cuda.synchronize(device)
    return sum(event.device_type.name == "CUDA" for event in profile.events() or [])


def _seconds(act: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Mean time of `act` once it is warm."""

    def several() -> None:
        for _ in range(repeats):
            act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    several()
    return measure.seconds(several) / repeats
