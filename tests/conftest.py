"""What every test shares: one thread a process, no W&B settings from outside, and a small data folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read by torch when it is imported; results depend on the number of threads
for _name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[_name]  # a developer's key or server

ROOT = Path(__file__).resolve().parents[1]
# Files that take half a minute and more, the longest first: processes that share the tests take whole files, in order.
LONG = (
    "sweeps",
    "runner",
    "compose",
    "notebooks",
    "cli",
    "engine",
    "probe_package",
    "bench",
    "agents",
    "findings_judged",
    "report",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests counted and told by `record_property("told", ...)`."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "told":
                terminalreporter.write_line(str(text))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with both data sets' names over few, random images in their shapes (512 to train on, 256 to test)."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, shape in (("cifar10", (32, 32, 3)), ("fashion_mnist", (28, 28, 1))):
        (root / name).mkdir()
        for split, count in (("train", 512), ("test", 256)):
            np.save(root / name / f"{split}_images.npy", draw.integers(0, 256, (count, *shape), dtype=np.uint8))
            np.save(root / name / f"{split}_labels.npy", np.arange(count, dtype=np.int64) % 10)
    return root
