"""One contract for all encoders with all families of posteriors, one for all priors; and the model and guide they make."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_skipvae import VAE
from pyro_skipvae.blocks import Standardise
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder, NoEncoder, ResNetEncoder
from pyro_skipvae.guides import DiagonalNormal, FullCovarianceNormal, InverseAutoregressiveFlow, VonMisesFisherPosterior
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal, UniformSphere, VampPrior
from pyro_skipvae.skip import parameter_count

POSTERIORS = {
    "diagonal": DiagonalNormal,
    "full": FullCovarianceNormal,
    "flow": InverseAutoregressiveFlow,
    "sphere": VonMisesFisherPosterior,
}
ENCODERS = {
    "mlp": lambda posterior: MLPEncoder((8, 9), 3, hidden=(7, 6), posterior=posterior),
    "resnet": lambda posterior: ResNetEncoder((8, 9), 3, maps=4, posterior=posterior),
    "resnet colour": lambda posterior: ResNetEncoder((2, 8, 9), 3, layers=2, maps=4, posterior=posterior),
    "lstm": lambda posterior: LSTMEncoder(7, 3, embedding=4, width=5, posterior=posterior),
}
PRIORS = {
    "standard normal": lambda encoder: StandardNormal(3),
    "mixture": lambda encoder: MixtureOfNormals(3, components=4),
    "sphere": lambda encoder: UniformSphere(3),
    "vamp": lambda encoder: VampPrior(encoder, torch.rand(5, 8, 9)),
}


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_contract(name, posterior):
    encoder = ENCODERS[name](POSTERIORS[posterior])
    x = torch.randint(2, 7, (5, 6)) if name == "lstm" else torch.rand(5, *((2, 8, 9) if "colour" in name else (8, 9)))
    q = encoder(x)
    assert q.batch_shape == (5,) and q.event_shape == (3,)
    z = q.rsample()
    q.log_prob(z).sum().backward()
    assert z.shape == (5, 3)
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []
    torch.manual_seed(1)
    apart = torch.stack([encoder(x[i : i + 1]).sample()[0] for i in range(5)])
    assert apart.shape == z.shape
    if posterior != "flow":  # a posterior depends on its own datapoint alone
        torch.testing.assert_close(torch.cat([encoder(x[i : i + 1]).mean for i in range(5)]), q.mean)


def test_full_covariance_holds_any_covariance(float64):
    D = 4
    scale_tril = torch.randn(D, D).tril(-1) + torch.diag(1 + torch.rand(D))
    target = dist.MultivariateNormal(torch.randn(D), scale_tril=scale_tril)
    family = FullCovarianceNormal(1, D)
    rows, columns = torch.tril_indices(D, D, offset=-1)
    tril = target.scale_tril
    with torch.no_grad():
        family.parameters_of.weight.zero_()
        family.parameters_of.bias.copy_(torch.cat([target.loc, 2 * tril.diagonal().log(), tril[rows, columns]]))
    z = torch.randn(6, D)
    torch.testing.assert_close(family(torch.zeros(6, 1)).log_prob(z), target.log_prob(z))


def test_the_flow_is_a_density(float64):
    torch.manual_seed(0)
    q = InverseAutoregressiveFlow(2, 1, flows=2, hidden=8)(torch.randn(1, 2))
    z = torch.linspace(-12, 12, 4001)[:, None]
    torch.testing.assert_close(torch.trapezoid(q.log_prob(z).exp(), z[:, 0]), torch.tensor(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_contract(name):
    encoder = MLPEncoder((8, 9), 3, hidden=(7,))
    prior = PRIORS[name](encoder)
    p = prior()
    assert p.batch_shape == () and p.event_shape == (3,)
    z = p.sample((6,))
    assert z.shape == (6, 3) and p.log_prob(z).shape == (6,)
    assert p.expand((4,)).sample().shape == (4, 3)


def test_mixture_density_in_closed_form(float64):
    prior = MixtureOfNormals(2, components=3)
    z = torch.randn(5, 2)
    parts = torch.stack([dist.Normal(loc, 1.0).to_event(1).log_prob(z) for loc in prior.loc])
    torch.testing.assert_close(prior().log_prob(z), parts.logsumexp(0) - torch.tensor(3.0).log())


def test_vamp_prior_is_the_aggregated_posterior_of_its_pseudo_inputs(float64):
    encoder = MLPEncoder((8, 9), 3, hidden=(7,))
    prior = VampPrior(encoder, u := torch.rand(4, 8, 9))
    z = torch.randn(5, 3)
    each = encoder(u).log_prob(z[:, None])  # (5, 4)
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(1) - torch.tensor(4.0).log())


@pytest.mark.parametrize("log", [False, True])
def test_a_vamp_prior_learns_its_pseudo_inputs_in_the_units_that_the_encoder_reads(log, float64):
    x = torch.poisson(torch.full((50, 6), 2.0)) if log else 1000 + 300 * torch.randn(50, 6)
    encoder = MLPEncoder((6,), 3, hidden=(7,), inputs=Standardise.of(x, log=log))
    prior, plain = VampPrior(encoder, x[:4], inputs=Standardise.of(x, log=log)), VampPrior(encoder, x[:4])
    z = torch.randn(5, 3)
    torch.testing.assert_close(prior().log_prob(z), plain().log_prob(z))
    optimizer = torch.optim.SGD([prior.pseudo_inputs], lr=1.0)
    prior.pseudo_inputs.grad = torch.full((4, 6), 30.0)  # counts of 2 fall as far as they can
    optimizer.step()
    assert prior().log_prob(z).isfinite().all()
    u = Standardise.of(x, log=log).inverse(prior.pseudo_inputs)
    assert (-1 <= u).all() if log else (x[:4] - u > 30 * 200).all()


def test_vamp_prior_shares_the_encoder_without_owning_it():
    encoder = MLPEncoder((8, 9), 3, hidden=(7,))
    prior = VampPrior(encoder, torch.rand(4, 8, 9))
    assert [name for name, _ in prior.named_parameters()] == ["pseudo_inputs"]
    vae = VAE(prior, MLPDecoder(3, (8, 9), layers=1, width=4), encoder)
    assert parameter_count(vae) == parameter_count(vae.encoder) + parameter_count(vae.decoder) + 4 * 72
    vae.prior().log_prob(torch.zeros(3)).backward()
    assert encoder.network[0].weight.grad.any() and prior.pseudo_inputs.grad.any()


def test_model_and_guide_sites_plate_and_beta():
    vae = VAE(StandardNormal(3), MLPDecoder(3, (8, 9), layers=1, width=4), MLPEncoder((8, 9), 3, hidden=(4,)))
    x = torch.rand(5, 8, 9).bernoulli()
    guide = poutine.trace(vae.guide).get_trace(x, beta=0.25)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x, beta=0.25)
    assert [name for name, site in model.nodes.items() if site["type"] == "sample"] == ["data", "z", "x"]
    assert model.nodes["x"]["is_observed"] and model.nodes["z"]["value"] is guide.nodes["z"]["value"]
    assert (model.nodes["z"]["scale"], guide.nodes["z"]["scale"], model.nodes["x"]["scale"]) == (0.25, 0.25, 1.0)
    names = set(pyro.get_param_store().keys())
    assert {name.split("$$$")[0] for name in names} == {"decoder", "encoder"}


def test_context_reaches_prior_decoder_and_encoder():
    class Shifted(torch.nn.Module):
        def forward(self, *given):
            shift = given[-1].float()[:, None]
            return dist.Normal(shift.expand(-1, 2), 1.0).to_event(1)

    vae = VAE(Shifted(), Shifted(), Shifted())
    x, label = torch.zeros(4, 2), torch.arange(4)
    trace = poutine.trace(poutine.replay(vae.model, poutine.trace(vae.guide).get_trace(x, label))).get_trace(x, label)
    assert trace.nodes["z"]["fn"].mean[:, 0].equal(label.float()) and trace.nodes["x"]["fn"].mean[:, 0].equal(label.float())


def test_no_encoder_gives_a_latent_of_size_zero():
    q = NoEncoder()(torch.zeros(4, 8, 8))
    assert q.batch_shape == (4,) and q.event_shape == (0,) and q.log_prob(q.sample()).equal(torch.zeros(4))


def test_images_too_small_for_the_encoder_are_refused():
    with pytest.raises(ValueError, match="at least 8 pixels a side, got 6x8"):
        ResNetEncoder((6, 8), 3)
