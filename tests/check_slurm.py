"""Sweeps through a real Slurm on this machine, with accounting and without: `make test-slurm`, and no other, runs this.

Runs are of a few seconds, on images of a few pixels. What a job that was killed, preempted or out of time leaves, and
what it ends with, is compared byte for byte with the same runs made without Slurm.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_here
from small_runs import quadrants, written
from waiting import found, wait_for

from bnstudy.store import paths
from bnstudy.store.runs import State, Store

WAIT_SEC = 300
STEPS = 16000  # some seconds of training, more on a busy machine: long enough to be stopped on the way
COMMON = [
    *("model=mlp", "model.hidden='16'", "data.name=quadrants", "data.augment=false", "data.normalise=unit"),
    *("norm=batch", "optim.lr=0.1", f"train.steps={STEPS}", "train.evaluate_every_epochs=1000", "probes=none"),
    *("tracking.mode=off", "runtime.device=cpu", "runtime.checkpoint_every_sec=0.5", "runtime.threads=1"),
]
SMALL_JOBS = ["launcher.mem_gb=1", "launcher.cpus_per_task=1"]


@pytest.fixture(scope="module", params=[False, True], ids=["without accounting", "with accounting"])
def cluster(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A Slurm, and the variables that lead to it."""
    slurm_here.install()
    if (obstacle := slurm_here.obstacle()) is not None:
        pytest.fail(f"there can be no Slurm here: {obstacle}")
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,  # the database's user may not look into pytest's own
        slurm_here.slurm(Path(folder), accounting=request.param) as environment,
    ):
        yield environment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quadrants(tmp_path_factory.mktemp("data"))


class Sweeps:
    """The command `sweep`, on one results folder, and what Slurm's commands tell meanwhile."""

    def __init__(self, environment: dict[str, str], root: Path, results: Path) -> None:
        self.environment, self.root, self.results = os.environ | environment, root, results

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bnstudy", "sweep", "lenet_lr_grid", "--preset", "quick"]
        command += ["--data-root", str(self.root), "--results", str(self.results), *COMMON, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=self.environment, text=True, **pipes)  # type: ignore[call-overload]

    def run(self, *arguments: str) -> tuple[int, str]:
        """Its exit status, and what it said."""
        return ended(self.start(*arguments))

    def slurm(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def states(self, job: str = "") -> list[str]:
        """The states of the jobs in the queue, or of one."""
        told = self.slurm("squeue", "--noheader", "--array", "--format=%A %T").splitlines()
        return [line.split()[1] for line in told if job in ("", line.split()[0])]

    def saved(self) -> list[Path]:
        return found(paths.groups(self.results), paths.CHECKPOINT)

    def ids(self) -> list[str]:
        return Store(self.results).run_ids()


@pytest.fixture
def sweeps(cluster: dict[str, str], root: Path, tmp_path: Path) -> Sweeps:
    return Sweeps(cluster, root, tmp_path / "results")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=WAIT_SEC)
    print(said)
    return process.returncode, said


def until(true: Callable[[], object]) -> None:
    wait_for(true, WAIT_SEC, every_sec=0.2)


def undisturbed(sweeps: Sweeps, tmp_path: Path, *arguments: str) -> dict[tuple[str, str], bytes]:
    """The tables of the same runs made by processes of the command itself."""
    alone = Sweeps({}, sweeps.root, tmp_path / "undisturbed")
    alone.run("--jobs", "1", *arguments)
    return written(alone.results, alone.ids())


def test_of_an_array_one_job_raises_and_one_is_killed(sweeps: Sweeps, tmp_path: Path) -> None:
    """The others end as they would without; the killed one goes on when the sweep is run again."""
    arms = ["seed=0,1", "data.batch_size=25", "model.hidden='16','1000000000000'"]  # which no memory holds
    process = sweeps.start("--launcher", "slurm", "--jobs", "4", *arms, *SMALL_JOBS)
    until(sweeps.saved)
    (members,) = {(saved.parent / paths.MEMBERS).read_text().strip() for saved in sweeps.saved()[:1]}
    described = next(iter((paths.cluster(sweeps.results)).glob("[0-9]*.json"))).read_text()
    found = re.search(rf'"id": "(\w+)", "run_ids": \["{re.escape(members)}"\]', described)
    assert found is not None
    sweeps.slurm("scancel", "--signal=KILL", found[1])
    status, said = ended(process)
    assert status == 1
    states = {name: Store(sweeps.results).state(name) for name in sweeps.ids()}
    assert sorted(states.values()) == [State.completed, State.failed, State.failed, State.partial]
    assert states[members] == State.partial
    assert re.search(rf"{members}: partial: job {found[1]} ended first \(.*\); its log: ", said)
    assert said.count("failed: RuntimeError: ") == 2
    status, said = sweeps.run("--launcher", "slurm", "--jobs", "4", "seed=0,1", "data.batch_size=25", *SMALL_JOBS)
    assert status == 0 and "2 runs, 1 done, 1 to train" in said
    assert written(sweeps.results, sweeps.ids()) == undisturbed(sweeps, tmp_path, "seed=0,1", "data.batch_size=25")


@pytest.mark.parametrize("how", ["preempted", "out of time"])
def test_a_job_that_is_queued_again_ends_with_the_same_bits(sweeps: Sweeps, tmp_path: Path, how: str) -> None:
    """Slurm warns of both with one signal, which for the time limit is sent here: limits are of whole minutes."""
    one = ["seed=0", "data.batch_size=25"]
    all_cores = ["launcher.mem_gb=1", "launcher.cpus_per_task=4", "launcher.timeout_min=10"]
    process = sweeps.start("--launcher", "slurm", *all_cores, *one)
    until(sweeps.saved)
    (job,) = sweeps.slurm("squeue", "--noheader", "--format=%A").split()
    if how == "preempted":
        sweeps.slurm("sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 2")
    else:
        sweeps.slurm("scancel", "--signal=USR2", job)
    until(lambda: sweeps.states(job) == ["PENDING"])
    assert sweeps.saved()
    until(lambda: sweeps.states() == ["PENDING"])
    sweeps.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # instead of in two minutes
    status, said = ended(process)
    (log,) = paths.cluster(sweeps.results).glob("*/*_log.out")
    print(log.read_text(), sweeps.slurm("scontrol", "show", "job", job))
    assert status == 0 and "1 completed" in said
    assert log.read_text().count("Starting with JobEnvironment") == 2 and "of no use" not in log.read_text()
    assert written(sweeps.results, sweeps.ids()) == undisturbed(sweeps, tmp_path, *one)


def test_after_ctrl_c_the_jobs_go_on_and_are_found_again(sweeps: Sweeps, tmp_path: Path) -> None:
    command = ["--launcher", "slurm", "seed=0,1", "data.batch_size=25", *SMALL_JOBS]
    process = sweeps.start(*command)
    until(lambda: "RUNNING" in sweeps.states())
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 130 and "the jobs stay" in said and "RUNNING" in sweeps.states()
    status, said = sweeps.run(*command, "--no-wait")
    assert status == 0 and "2 runs are in the queue already" in said and "are submitted" not in said
    status, said = sweeps.run(*command)
    assert status == 0 and "are submitted" not in said
    assert {Store(sweeps.results).state(name) for name in sweeps.ids()} == {State.completed}
    tables = paths.tables(paths.workspace(sweeps.results, paths.CUSTOM), "lenet_lr_grid")
    assert (tables / "runs.parquet").exists()


def test_what_slurm_refuses_is_told_in_words(sweeps: Sweeps) -> None:
    status, said = sweeps.run("--launcher", "slurm", "seed=0", "launcher.partition=nowhere")
    assert status == 2 and "Slurm refused the jobs: invalid partition specified: nowhere" in said
