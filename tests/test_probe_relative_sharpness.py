"""Sharpness in units of the weights' norms: against the matrix itself, and that BN's rescaling does not change it."""

from __future__ import annotations

import pytest
import torch
from probe_networks import look, make_loader, make_network
from torch.nn import functional

from bnstudy import probes


def eigenvalue(network, name, **options):
    (row,) = probes.rows(name, options, look(network, make_loader(), reads=set()))
    assert row["converged"]
    return row["eigenvalue"]


def test_it_is_the_largest_eigenvalue_of_the_scaled_hessian():
    network, loader = make_network("none", widths=(2, 3), num_blocks=1).double(), make_loader()
    images, labels = look(network, loader, reads=set()).images_NCHW, look(network, loader, reads=set()).labels_N
    parameters = list(network.parameters())
    sizes = [p.numel() for p in parameters]

    def loss(flat):
        values = {
            name: part.view(p.shape)
            for (name, p), part in zip(network.named_parameters(), flat.split(sizes), strict=True)
        }
        return functional.cross_entropy(torch.func.functional_call(network, values, (images.double(),)), labels)

    flat = torch.cat([p.detach().flatten() for p in parameters])
    hessian = torch.autograd.functional.hessian(loss, flat)
    norms = torch.cat([p.detach().norm().expand(p.numel()) for p in parameters])
    expected = torch.linalg.eigvalsh(norms[:, None] * hessian * norms)[-1].item()
    assert eigenvalue(network, "relative_sharpness", tolerance=1e-4) == pytest.approx(expected, rel=1e-3)


def test_a_rescaling_that_batch_norm_undoes_changes_the_plain_eigenvalue_alone():
    network = make_network("batch").double()
    names = ("relative_sharpness", "hessian_top_eigenvalue")
    before = {name: eigenvalue(network, name, tolerance=1e-4) for name in names}
    with torch.no_grad():
        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        for factor, convolution in enumerate(convolutions, 2):
            convolution.weight.mul_(1 / factor)
    after = {name: eigenvalue(network, name, tolerance=1e-4) for name in before}
    assert after["relative_sharpness"] == pytest.approx(before["relative_sharpness"], rel=5e-3)
    assert after["hessian_top_eigenvalue"] > 1.2 * before["hessian_top_eigenvalue"]


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_iterations": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="relative_sharpness: tolerance"):
        probes.rows("relative_sharpness", options, look(make_network(), make_loader(), reads=set()))
