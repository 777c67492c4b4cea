"""SGD against torch's own, run by run, and the schedule against a list of its values."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.config.schema import Optim
from bnstudy.training.optim import SGD, lr_at

SHAPES = ((4, 3, 5, 5), (4,), (2, 7))  # of one run; stacked along the first dimension


def draws(seed, num_runs, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return [torch.cat([torch.randn(shape, generator=source, dtype=dtype) for _ in range(num_runs)]) for shape in SHAPES]


def part(stacked, run, num_runs):
    return [tensor.unflatten(0, (num_runs, -1))[run].clone() for tensor in stacked]


@settings(deadline=None, max_examples=50)
@given(
    num_runs=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    lr=st.floats(1e-4, 10.0),
    masked=st.booleans(),
    flat=st.booleans(),
)
def test_every_run_of_a_stack_is_torchs_sgd(num_runs, momentum, weight_decay, lr, masked, flat):
    weights = draws(0, num_runs)
    weights[0] = weights[0].contiguous(memory_format=torch.channels_last)
    twins = [part(weights, run, num_runs) for run in range(num_runs)]
    rates = [lr / (run + 1) for run in range(num_runs)]
    torchs = [
        torch.optim.SGD(twin, lr=rate, momentum=momentum, weight_decay=weight_decay)
        for twin, rate in zip(twins, rates, strict=True)
    ]
    ours = SGD(weights, num_runs, Optim(momentum=momentum, weight_decay=weight_decay), flat=flat)
    alive_R = torch.ones(num_runs, dtype=torch.bool) if masked else None
    for step in range(4):
        gradients = draws(1 + step, num_runs)
        ours.step(gradients, torch.tensor(rates, dtype=torch.float64), alive_R)
        for run, optimiser in enumerate(torchs):
            for parameter, gradient in zip(twins[run], part(gradients, run, num_runs), strict=True):
                parameter.grad = gradient
            optimiser.step()
    for run in range(num_runs):
        for mine, theirs in zip(part(weights, run, num_runs), twins[run], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_dead_run_keeps_its_weights_and_its_neighbours_never_know(poison, layout):
    """Also in the layout in which an engine keeps convolutions."""
    optim = Optim(momentum=0.9, weight_decay=0.01)
    weights, twins = (
        [w.to(memory_format=layout) if w.dim() == 4 else w for w in draws(0, 3, torch.float32)] for _ in range(2)
    )
    lr_R = torch.tensor([0.1, 0.2, 0.3])
    dead, living = SGD(weights, 3, optim), SGD(twins, 3, optim)
    for sgd in (dead, living):
        sgd.step(draws(1, 3, torch.float32), lr_R, None)
    before, velocities = part(weights, 1, 3), part(dead.velocities, 1, 3)
    gradients = draws(2, 3, torch.float32)
    living.step(gradients, lr_R, torch.tensor([True, True, True]))
    for gradient in gradients:
        gradient.unflatten(0, (3, -1))[1].fill_(poison)
    dead.step(gradients, lr_R, torch.tensor([True, False, True]))
    assert all(map(torch.equal, part(weights, 1, 3), before))
    assert all(map(torch.equal, part(dead.velocities, 1, 3), velocities))
    for run in (0, 2):
        assert all(map(torch.equal, part(weights, run, 3), part(twins, run, 3)))
        assert all(map(torch.equal, part(dead.velocities, run, 3), part(living.velocities, run, 3)))


def test_the_papers_schedule_divides_by_ten_at_half_and_three_quarters():
    optim = Optim(lr=0.1, milestones=[0.5, 0.75], decay=0.1)
    rates = [lr_at(step, 8, optim) for step in range(8)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    epochs = [lr_at(epoch * 391, 165 * 391, optim) for epoch in range(165)]  # 165 epochs of 50,000 images
    assert [sum(rate > low for rate in epochs) for low in (0.05, 0.005)] == [83, 124]


def test_the_textbooks_schedule_is_constant():
    assert {lr_at(step, 5, Optim(lr=3.0, milestones=[])) for step in range(5)} == {3.0}


def test_a_warm_up_rises_in_equal_steps_to_the_rate_and_leaves_the_rest_of_the_schedule():
    optim, plain = Optim(lr=0.8, milestones=[0.5], warmup=0.25), Optim(lr=0.8, milestones=[0.5])
    rates = [lr_at(step, 16, optim) for step in range(16)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == [lr_at(step, 16, plain) for step in range(4, 16)]
    few = [lr_at(step, 3, Optim(lr=1.0, milestones=[], warmup=0.1)) for step in range(3)]
    assert few == [1.0, 1.0, 1.0]  # a third of an update is none


@given(total=st.integers(1, 10_000), hundredths=st.integers(1, 99), data=st.data())
def test_a_milestone_is_exact_where_its_fraction_is_a_whole_step(total, hundredths, data):
    """0.55 of 100 steps is step 55, although 0.55 * 100 is a little more in floating point."""
    passed = data.draw(st.integers(0, total - 1))
    optim = Optim(lr=1.0, milestones=[hundredths / 100], decay=0.5)
    assert lr_at(passed, total, optim) == (0.5 if passed >= Fraction(hundredths, 100) * total else 1.0)
    assert lr_at(55, 100, Optim(lr=1.0, milestones=[0.55], decay=0.5)) == 0.5
