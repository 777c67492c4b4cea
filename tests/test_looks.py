"""A look that takes long is left on request, and repeated when the runs go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_runs import config, job, make, names, quadrants, torch_as_it_was, written

from bnstudy import probes
from bnstudy.store.jobs import Group, under_way
from bnstudy.store.runs import State, Store
from bnstudy.training import runner, signals
from bnstudy.training.train import Training

PROBES = {"gradient_norms": {"at": [0, 3, 9], "at_end": True, "at_divergence": True}, "weights": {"at": [3]}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def torch_state():
    with torch_as_it_was():
        yield


def long_at(monkeypatch, step, probe="gradient_norms"):
    """The probe never ends at this step; a list that says so once it has begun."""
    begun, plain = [], probes.rows

    def run(name, options, snapshot):
        if name == probe and snapshot.step == step:
            begun.append(step)
            while True:
                time.sleep(0.01)
        return plain(name, options, snapshot)

    monkeypatch.setattr(probes, "rows", run)
    return begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (0, {}),
        (3, {}),
        (9, {}),
        (3, {"optim__lr": 1e30, "train__divergence_loss": 50.0}),  # which diverges before
    ],
)
def test_a_request_within_a_look_is_honoured_at_once(tmp_path, root, monkeypatch, step, changes, number):
    """Rows and their order are those of runs that were not interrupted."""
    wanted = config(root, probes=PROBES, **changes)
    make([wanted], tmp_path / "whole")
    manifest = Store(tmp_path / "whole").manifest(names([wanted])[0])
    if changes:
        step = manifest["diverged_step"]
        assert step is not None
    with monkeypatch.context() as patch:
        begun, stop = long_at(patch, step), signals.Stop()

        def ask():
            while not begun:
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        asking = threading.Thread(target=ask)
        asking.start()
        began = time.monotonic()
        with stop.listening(), pytest.raises(signals.Interrupted):
            make([wanted], tmp_path / "cut", stop=stop)
        asking.join()
        assert time.monotonic() - began < 30
    assert list(under_way(tmp_path / "cut").values()) == [names([wanted])]
    (ended,) = make([wanted], tmp_path / "cut")
    assert ended.state == (State.diverged if changes else State.completed)
    assert written(tmp_path / "cut", names([wanted])) == written(tmp_path / "whole", names([wanted]))


def test_a_request_before_a_look_does_not_wait_for_it(tmp_path, root, monkeypatch):
    """One that comes during the update before."""
    wanted, stop = config(root, probes=PROBES), signals.Stop()
    begun = long_at(monkeypatch, 3)
    plain = Training._advance

    def advance(self):
        plain(self)
        stop.requested = self.position.step == 3

    monkeypatch.setattr(Training, "_advance", advance)
    with pytest.raises(signals.Interrupted):
        runner.train_group(Group((job(wanted),)), tmp_path, threads=1, report=lambda *_: None, stop=stop)
    assert not begun and list(under_way(tmp_path).values()) == [names([wanted])]


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    stop = signals.Stop()
    with stop.listening(), stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_cannot_be_left_yet_is_named(monkeypatch, capfd):
    monkeypatch.setattr(signals, "PATIENCE_SEC", 0.05)
    stop = signals.Stop()
    with stop.listening(), stop.deferred(), pytest.raises(signals.Left):
        blocked = {signal.SIGTERM}
        with stop.leavable("the probes at step 7 (weights)"):
            stop._leavable = False  # as where no handler can run
            os.kill(os.getpid(), signal.SIGTERM)
            assert blocked and stop.requested
            time.sleep(0.5)
            raise signals.Left
    assert "as soon as the probes at step 7 (weights) can be left" in capfd.readouterr().err


BUSY = """
import hashlib
from bnstudy.training import runner, signals

signals.PATIENCE_SEC = signals.ENDING_SEC = 0.2
stop = signals.Stop(ends_process=True)
with stop.listening(), stop.deferred(), stop.leavable("the probes at step 0"):
    print("looking", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"word", b"salt", 10**9)  # no handler runs meanwhile
"""


@pytest.mark.slow
def test_a_second_ctrl_c_ends_what_cannot_be_left_and_the_first_says_what_it_waits_for():
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "looking\n"
    time.sleep(1)  # until it is within the operation
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "stopping as soon as the probes at step 0 can be left" in "".join(lines)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "ended at once" in error and "Traceback" not in error
