"""What a process may use: GPUs as CUDA counts them, and cores as affinity and control groups leave them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bnstudy.store import devices


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,1,2", ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("0,-1,1", ["0"]),  # CUDA stops at the first that is invalid
        ("0,7,1", ["0"]),
        ("7,0", []),
        ("x,0", []),
        ("", []),
        ("0,,1", ["0"]),
        ("-1", []),
        ("NoDevFiles", []),
        (" 1 , 0 ", ["1", "0"]),
        ("1x,0", ["1", "0"]),  # as strtoul reads numbers
        ("0,0", []),  # and takes none where one is repeated
        ("0,1,1", []),
        ("GPU-aa,GPU-bb,0", ["GPU-aa", "GPU-bb"]),
        ("GPU-aa,GPU-aa", []),
        ("0,GPU-aa", ["0"]),
        ("MIG-1,MIG-2,MIG-3,MIG-4", ["MIG-1", "MIG-2", "MIG-3", "MIG-4"]),  # more than there are GPUs
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(monkeypatch, tmp_path, visible, names):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.names() == names and devices.gpus() == len(names)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b", {"cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000"}, 1),
        ("0::/elsewhere", {"cpu.max": "nonsense"}, 8),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_control_groups_limit_cores(monkeypatch, tmp_path, groups, files, cores):
    (tmp_path / "own").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(devices, "CGROUPS", tmp_path)
    monkeypatch.setattr(devices, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(devices, "AFFINITY", frozenset(range(8)))
    assert devices.cores() == cores


def test_cores_are_those_from_before_a_library_bound_the_thread():
    code = "from bnstudy.store import devices; before = devices.cores(); import torch; print(before, devices.cores())"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_PROC_BIND": "true"}, capture_output=True, text=True
    )
    before, after = told.stdout.split()
    assert before == after == str(devices.cores())


def test_workers_have_cores_of_their_own_where_threads_are_to_be_bound(monkeypatch):
    monkeypatch.setattr(devices, "AFFINITY", frozenset({2, 3, 5, 7}))
    for name in devices.BINDING:
        monkeypatch.delenv(name, raising=False)
    assert devices.share(1, 2) == {2, 3, 5, 7}
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    assert [devices.share(worker, 2) for worker in range(3)] == [{2, 3}, {5, 7}, {2, 3}]
    asked = devices.for_threads(2)
    assert asked["OMP_PROC_BIND"] is asked["OMP_THREAD_LIMIT"] is None and asked["OMP_NUM_THREADS"] == "2"
