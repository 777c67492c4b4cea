"""Runs each on its own, and updates that are recorded and replayed, do to the bit what the plain engine does."""

from __future__ import annotations

import pytest
import torch
from small_runs import config, make, quadrants, torch_as_it_was, written
from test_engine import batch, bits, network

from bnstudy.config.schema import Config, Optim, Runtime
from bnstudy.store import devices
from bnstudy.training import engine
from bnstudy.training.engine.base import StepResult
from bnstudy.training.engine.captured import WARM_UP, Captured
from bnstudy.training.engine.lockstep import Lockstep
from bnstudy.training.engine.parallel import Parallel

CPU = torch.device("cpu")
OPTIM = Optim(momentum=0.9, weight_decay=1e-4)


def one(net, *, flat=True):
    return Lockstep([net], OPTIM, divergence_loss=1e3, device=CPU, channels_last=True, fuse=True, flat=flat)


def graphs(kept):
    """What a CUDA graph is to an engine, on the CPU: each replay computes anew, into the tensors of the first time."""

    def record(act):
        results: list[StepResult] = []
        kept.append(results)

        def replay():
            seen = act()
            if not results:
                results.append(seen)
            for old, new in zip(results[0], seen, strict=True):
                old.copy_(new)
            return results[0]

        return replay

    return record


def equal(ours, theirs):
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_parallel_runs_are_the_runs_alone(name):
    """Also where one of them dies."""
    nets = [network(name, "batch", seed) for seed in range(3)]
    rates = [0.1, 1e30, 0.3]
    alone = [one(net) for net in nets]
    together = Parallel([one(net) for net in nets], CPU)
    size = 4 if name == "resnet" else 16
    for step in range(3):
        data = batch(name, step, size)
        seen = together.step(data, rates)
        wanted = [each.step(data, [rate]) for each, rate in zip(alone, rates, strict=True)]
        assert equal(seen, StepResult(*(torch.cat(values) for values in zip(*wanted, strict=True))))
    assert seen.alive_R.tolist() == [True, False, True]
    for run, each in enumerate(alone):
        if run != 1:
            assert equal(bits(together, (run,)), bits(each, (0,)))
        states = [of.network(at).state_dict() for of, at in ((together, run), (each, 0))]
        assert equal(*(list(state.values()) for state in states))  # its statistics are NaN where it died
    data = iter([batch(name, 9, size), batch(name, 8, 3)])
    losses, accuracies = together.evaluate(data)
    wanted = [each.evaluate([batch(name, 9, size), batch(name, 8, 3)]) for each in alone]
    assert equal((losses, accuracies), [torch.cat(values) for values in zip(*wanted, strict=True)])


def test_parallel_state_is_laid_out_as_that_of_a_stack_and_goes_on_to_the_bit():
    nets = [network("lenet", "batch", seed) for seed in range(2)]
    together = Parallel([one(net) for net in nets], CPU)
    stacked = Lockstep(nets, OPTIM, divergence_loss=1e3, device=CPU)
    assert {k: v.shape for k, v in together.state().items()} == {k: v.shape for k, v in stacked.state().items()}
    together.step(batch("lenet", 0), [0.1, 0.2])
    again = Parallel([one(network("lenet", "batch", 7)) for _ in nets], CPU)
    again.load(together.state())
    assert equal(*(each.step(batch("lenet", 1), [0.1, 0.2]) for each in (together, again)))
    assert all(torch.equal(v, again.state()[k]) for k, v in together.state().items())


@pytest.mark.parametrize("num_runs", [1, 2])
def test_what_is_replayed_is_what_would_have_been_done(num_runs):
    """Over two shapes of mini-batch, a rate that changes, a state that is loaded, and a run that dies."""
    nets = [network("lenet", "batch", seed) for seed in range(num_runs)]

    def fresh():
        engines = [one(net) for net in nets]
        return engines[0] if num_runs == 1 else Parallel(engines, CPU)

    kept: list[list[StepResult]] = []
    recorded, plain = Captured(fresh(), CPU, graphs(kept)), fresh()
    seen, before = [], plain.state()
    for step in range(3 * (WARM_UP + 3)):
        data = batch("lenet", step, 7 if step % 3 == 2 else 16)
        rates = [(0.1 if step < 8 else 0.05) * (1 + run) for run in range(num_runs)]
        if step == 16:
            rates[-1] = 1e30
        if step == 12:  # back to an earlier state: recordings stay valid
            for each in (recorded, plain):
                each.load(before)
        seen.append((recorded.step(data, rates), plain.step(data, rates)))
        if step == 9:
            before = plain.state()
    assert all(equal(ours, theirs) for ours, theirs in seen), "a later replay wrote over what an earlier one saw"
    assert len(kept) == 2 and all(kept), "each shape is recorded once, and replayed"
    assert not seen[-1][0].alive_R[-1] and all(map(torch.equal, bits(recorded, (0,)), bits(plain, (0,))))
    assert equal(recorded.evaluate([batch("lenet", 0)]), plain.evaluate([batch("lenet", 0)]))
    assert all(map(torch.equal, recorded.network(0).parameters(), plain.network(0).parameters()))


def test_what_cannot_be_recorded_is_launched_one_by_one_and_said_once():
    def refuse(act):
        raise RuntimeError("operation not permitted when stream is capturing")

    net = network("lenet", "batch", 0)
    recorded, plain = Captured(one(net), CPU, refuse), one(net)
    with pytest.warns(UserWarning, match="cannot be recorded: operation not permitted") as seen:
        for step in range(WARM_UP + 3):
            assert equal(recorded.step(batch("lenet", step), [0.1]), plain.step(batch("lenet", step), [0.1]))
    assert len(seen) == 1


def test_the_engine_follows_device_and_setting():
    nets = {name: [network(name, "batch", seed) for seed in range(2)] for name in ("lenet", "resnet")}

    def kind(name, count, asked):
        given = Config(model={"name": name}, norm={"name": "batch"}, runtime=Runtime(engine=asked))
        return type(engine.build_engine([given] * count, nets[name][:count], CPU))

    assert kind("lenet", 2, "stacked") is Lockstep and kind("lenet", 1, "parallel") is Lockstep
    assert kind("lenet", 2, "auto") is Parallel and kind("resnet", 2, "auto") is Parallel


def test_runs_side_by_side_on_their_own_write_what_a_run_alone_writes(tmp_path):
    root = quadrants(tmp_path / "data")
    rates = (0.1, 0.5)
    apart = [config(root, optim__lr=lr, runtime__engine="plain") for lr in rates]
    together = [config(root, optim__lr=lr, runtime__engine="parallel") for lr in rates]
    with torch_as_it_was():
        names = [ended.run_id for ended in make(apart, tmp_path / "apart")]
        assert names == [ended.run_id for ended in make(together, tmp_path / "together")]
    assert written(tmp_path / "apart", names) == written(tmp_path / "together", names)


def test_gpus_are_counted_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "nowhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.gpus() == 0 and not devices.on_gpu("auto") and devices.on_gpu("cuda:1")
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert devices.gpus() == 2 and devices.on_gpu("auto") and not devices.on_gpu("cpu")
    for visible, number in (("1", 1), ("", 0), ("0,1,2", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.gpus() == number
