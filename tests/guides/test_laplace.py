"""Variational Laplace: the exact posterior of a linear model, its bound and gradient; modes of other decoders; mistakes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import VariationalLaplace
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

D, E, VARIANCE = 3, 5, 0.49


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(E, D)), nn.Parameter(torch.randn(E))

    def forward(self, z):
        return dist.Normal(z @ self.weight.T + self.bias, VARIANCE**0.5).to_event(1)


def vae_of(decoder):
    pyro.clear_param_store()
    return VAE(StandardNormal(D), decoder, MLPEncoder((E,), D, hidden=(4,)))


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_one_step_is_the_posterior_of_a_linear_model(float64, beta):
    vae, x = vae_of(decoder := Linear()), torch.randn(6, E)
    W = decoder.weight
    covariance = beta * torch.linalg.inv(W.T @ W / VARIANCE + beta * torch.eye(D))
    for steps in (1, 3):
        q = VariationalLaplace(vae, steps=steps).posterior(x, beta)
        torch.testing.assert_close(q.covariance_matrix, covariance.expand(6, D, D))
        torch.testing.assert_close(q.mean, (x - decoder.bias) @ W @ covariance / VARIANCE / beta)
    # Of normals it is the one at which the ELBO with this beta is largest: neither moment can be moved to its gain.
    loc, root = q.mean.detach().requires_grad_(), torch.linalg.cholesky(q.covariance_matrix).detach().requires_grad_()
    distortion = (x - loc @ W.T - decoder.bias).square().sum() + (W @ root).square().sum()
    q = dist.MultivariateNormal(loc, scale_tril=root)
    p = dist.MultivariateNormal(torch.zeros(D), torch.eye(D))
    bound = distortion / (2 * VARIANCE) + beta * torch.distributions.kl_divergence(q, p).sum()
    for gradient in torch.autograd.grad(bound, (loc, root)):
        torch.testing.assert_close(gradient.tril() if gradient.dim() == 3 else gradient, torch.zeros_like(gradient))


def test_then_the_bound_and_its_gradient_are_those_of_log_p(float64):
    vae, x = vae_of(decoder := Linear()), torch.randn(6, E)
    vae.guide = VariationalLaplace(vae, steps=1)
    W = decoder.weight
    exact = -dist.MultivariateNormal(decoder.bias, W @ W.T + VARIANCE * torch.eye(E)).log_prob(x).sum()
    bound = elbo(vae.model, vae.guide, x)
    torch.testing.assert_close(bound, exact)
    parameters = list(decoder.parameters())
    torch.testing.assert_close(torch.autograd.grad(bound, parameters), torch.autograd.grad(exact, parameters))


def test_steps_lead_to_the_mode_of_other_decoders_with_its_curvature(float64):
    torch.manual_seed(0)
    vae, x = vae_of(MLPDecoder(D, (E,), layers=1, width=6)), torch.rand(4, E).round()
    q = VariationalLaplace(vae, steps=60).posterior(x)
    z = q.mean.detach().requires_grad_()
    log_joint = (vae.decoder(z).log_prob(x) + vae.prior().log_prob(z)).sum()
    (gradient,) = torch.autograd.grad(log_joint, z)
    start = vae.encoder(x).mean.detach().requires_grad_()
    (before,) = torch.autograd.grad((vae.decoder(start).log_prob(x) + vae.prior().log_prob(start)).sum(), start)
    assert gradient.norm() < 0.2 * before.norm()  # 0 but for modes that lie on a kink
    # Between its kinks the logits of this decoder are linear in z: the curvature is exact.
    energy = lambda at: -(vae.decoder(at).log_prob(x) + vae.prior().log_prob(at)).sum()  # noqa: E731
    rows = torch.arange(4)
    hessian = torch.autograd.functional.hessian(energy, z.detach())[rows, :, rows]
    torch.testing.assert_close(q.precision_matrix, hessian)


def test_the_encoder_and_the_decoder_are_trained(float64):
    vae, x = vae_of(MLPDecoder(D, (E,), layers=1, width=6)), torch.rand(4, E).round()
    vae.guide = VariationalLaplace(vae)
    elbo(vae.model, vae.guide, x, 0.5).backward()
    assert all(p.grad is not None and p.grad.any() for p in (vae.encoder.network[0].weight, *vae.decoder.parameters()))


def test_mistakes(float64):
    with pytest.raises(ValueError, match="steps to be a whole number of at least 1, got 0"):
        VariationalLaplace(None, steps=0)
    vae = vae_of(lambda z: dist.Poisson(z.exp()).to_event(1))
    with pytest.raises(ValueError, match="expected p.x.z. of Bernoullis or normals for variational Laplace, got Poisson"):
        VariationalLaplace(vae).posterior(torch.ones(2, E))


def test_a_control_is_told_the_rate(float64):
    """The derivative of the loss in beta is the rate, and not what beta does to q(z|x) besides."""
    torch.manual_seed(0)
    vae, x = vae_of(MLPDecoder(D, (E,), layers=1, width=6)), torch.rand(50, E).round()
    guide = VariationalLaplace(vae)
    beta = torch.tensor(0.3, requires_grad=True)
    torch.manual_seed(1)
    elbo(vae.model, guide, x, beta).backward()
    torch.manual_seed(1)
    q, p = guide.posterior(x, 0.3), vae.prior()
    z = q.rsample()
    assert beta.grad.item() == pytest.approx((q.log_prob(z) - p.log_prob(z)).sum().item())
