"""Networks that know a variance: the layer, the network, and what training, evaluation and prediction make of it."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from test_reading import one_target, whole_way
from torch import nn

import harmonet as hn
from harmonet.blocks.variational import VariationalDropout
from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.fusion import Gaussian
from harmonet.losses.masked import masked_mse
from harmonet.networks.bayesian_espcn import BayesianESPCN
from harmonet.reading import task_of
from harmonet.recipe import parse
from harmonet.stages import Stage
from harmonet.taps import measure
from harmonet.training.loss import loss_terms, penalty

SIZE = (2, 6, 7, 7, 7)


def small(upsampling=1, **options):
    torch.manual_seed(0)
    return BayesianESPCN(6, 6, upsampling, widths=(4, 6), **options)


def test_noise_has_the_strength_that_the_layer_says():
    layer = VariationalDropout(2)
    with torch.no_grad():
        layer.rho[:] = torch.tensor([-20.0, 5.0])  # next to none, and the most: 1
    assert torch.allclose(layer.sigma, torch.tensor([0.0, 1.0]), atol=1e-6)
    torch.manual_seed(1)
    noisy = layer(torch.ones(1, 2, 30, 30, 30))
    assert noisy[:, 0].std() < 1e-6
    assert noisy[:, 1].mean().item() == pytest.approx(1, abs=0.03)
    assert noisy[:, 1].std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(torch.ones(1, 2, 3, 3, 3)), torch.ones(1, 2, 3, 3, 3))


def test_the_divergence_falls_with_the_noise_and_grows_with_the_voxels():
    """Against the integral that the cubic stands for, computed by sampling: the log-uniform prior of Kingma 2015."""

    def at(sigma, edge=1):
        layer = VariationalDropout(1)
        with torch.no_grad():
            layer.rho[:] = np.log(np.expm1(sigma))
        layer.eval()(torch.ones(1, 1, edge, edge, edge))
        return layer.penalty().item()

    draws = np.random.default_rng(0).standard_normal(2_000_000)

    def exact(sigma):
        return np.log(np.abs(1 + sigma * draws)).mean() - np.log(sigma)

    for one, other in ((0.3, 0.6), (0.6, 0.9)):
        assert at(one) - at(other) == pytest.approx(exact(one) - exact(other), abs=0.02)
    assert at(0.5, edge=3) == pytest.approx(27 * at(0.5), rel=1e-5)


@pytest.mark.parametrize(("upsampling", "edge"), [(1, 7), (2, 11)])
def test_mean_and_variance_have_the_size_of_a_prediction(upsampling, edge):
    for network in (small(upsampling), small(upsampling).eval()):
        mean, variance = network(torch.randn(SIZE))
        assert mean.shape == variance.shape == (2, 6, edge, edge, edge)
        assert (variance > 0).all()


def test_training_is_noisy_and_evaluation_is_not():
    x = torch.randn(SIZE)
    network = small()
    assert not torch.equal(network(x).mean, network(x).mean)
    network.eval()
    assert torch.equal(network(x).mean, network(x).mean)
    assert torch.allclose(network(x[:1]).mean, network(x).mean[:1], atol=1e-6)


def test_the_passes_add_their_spread_to_the_variance():
    x = torch.randn(SIZE)
    plain, noisy = small(passes=0).eval()(x), small(passes=50).eval()(x)
    assert (noisy.variance > plain.variance).float().mean() > 0.99
    assert torch.allclose(noisy.mean, plain.mean, atol=0.5)
    assert not torch.allclose(noisy.mean, plain.mean, atol=1e-4)


def test_every_parameter_gets_a_gradient():
    network = small()
    prediction = network(torch.randn(SIZE))
    stage = Stage()
    stage.add("a", prediction)
    inside = {"a": torch.ones(2, 1, 7, 7, 7)}
    loss = loss_terms([stage], {"a": torch.randn(SIZE)}, inside)[0, "a"] + penalty(network)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_likelihood_is_torchs_and_the_error_ignores_the_variance():
    mean, truth, variance = torch.randn(SIZE), torch.randn(SIZE), torch.rand(SIZE) + 0.5
    stage, inside = Stage(), {"a": torch.ones(2, 1, 7, 7, 7)}
    stage.add("a", Gaussian(mean, variance))
    loss = loss_terms([stage], {"a": truth}, inside)[0, "a"]
    assert torch.allclose(loss, 2 * nn.functional.gaussian_nll_loss(mean, truth, variance))
    assert torch.allclose(masked_mse(stage["a"], truth, inside["a"]), nn.functional.mse_loss(mean, truth))


def test_a_variance_of_another_size_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return Gaussian(x, x[:, :1])

    with pytest.raises(hn.HarmonetError, match=r"a mean of .* and a variance of"):
        measure(Odd(), {}, 6, 7)


def test_it_can_be_a_member_of_a_fusion_whose_stages_carry_the_variance():
    singles = {"a": "bayesian_espcn", "b": "diqt", "c": "bayesian_espcn"}
    options = {"bayesian_espcn": {"widths": (4, 6), "passes": 2}, "diqt": {"layers": 1, "widths": (4, 6)}}
    model = hn.compose(singles, "msp", "a", channels=6, options=options).eval()
    first, second = model(torch.randn(1, 6, 11, 11, 11))
    assert set(first.variances) == {"a", "c"}
    assert set(second) == {"a"}
    assert second.variances == {}


def test_training_evaluation_and_prediction_use_the_variance(tiny_heads, tmp_path):
    task = one_target(task_of(open_dataset(tiny_heads), "ge_st"))
    options = {"bayesian_espcn": {"widths": [8, 12], "passes": 3}}
    recipe = recipe_of(task, {"prisma_st": ["bayesian_espcn"]}, options=options, order=2)
    training = {"epochs": 3, "patches_per_subject": 40, "validation_patches": 8, "batch_size": 4, "learning_rate": 3e-3}
    recipe = parse(recipe.model_dump(exclude_none=True) | {"training": training}, "of a test")
    _, evaluation, files = whole_way(tiny_heads, recipe, tmp_path)
    assert "new_space-prisma_st_sh_variance.nii.gz" in files
    variance = nib.load(tmp_path / "predicted" / "new_space-prisma_st_sh_variance.nii.gz").get_fdata()
    mask = nib.load(tmp_path / "predicted" / "new_space-prisma_st_mask.nii.gz").get_fdata() > 0
    assert (variance[mask] > 0).all()
    assert (variance[~mask] == 0).all()
    against = {(s.method, s.against): s.calibration for s in evaluation.scores}
    assert against["interpolation", "target"] is None
    assert 0.1 < against["bayesian_espcn", "target"] < 10
    assert json.dumps(evaluation.as_json())
