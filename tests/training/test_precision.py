"""Training in bfloat16: networks only; draws, densities and whatever is reported stay in float32."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder
from pyro_skipvae.guides import DiagonalNormal, FullCovarianceNormal, InverseAutoregressiveFlow
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.training import precision

X = torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(0)).gt(0.5).float()
WORDS = torch.tensor([[5, 6, 7, 2], [6, 2, 0, 0]])


def mlp(posterior=DiagonalNormal):
    return VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=8), MLPEncoder((3, 3), 2, posterior=posterior)), X


def pixelcnn():
    return VAE(StandardNormal(2), PixelCNNDecoder(2, (3, 3), layers=2, maps=4), MLPEncoder((3, 3), 2)), X


def text():
    decoder = LSTMDecoder(9, 2, max_length=4, embedding=8, width=16, dropout=0.0)
    return VAE(StandardNormal(2), decoder, LSTMEncoder(9, 2, embedding=8, width=16)), WORDS


PAIRS = {
    "mlp": mlp,
    "full covariance": lambda: mlp(FullCovarianceNormal),
    "flow": lambda: mlp(InverseAutoregressiveFlow),
    "pixelcnn": pixelcnn,
    "text": text,
}


def make(name):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return PAIRS[name]()


def step_of(vae, objective=elbo, **options):
    return svi_step(vae.model, vae.guide, objective, Adam({"lr": 0.01, "fused": True}), max_norm=1.0, **options)


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_in_bfloat16_draws_and_weighs_in_float32(name):
    vae, x = make(name)
    seen, shortened = [], []

    def noted(model, guide, x, beta=1.0):
        trace = pyro.poutine.trace(guide).get_trace(x)
        q, z = trace.nodes["z"]["fn"], trace.nodes["z"]["value"]
        p = vae.decoder(z)
        seen.extend([z.dtype, q.log_prob(z).dtype, p.log_prob(x).dtype, vae.prior().log_prob(z).dtype])
        if name == "full covariance":  # a product of matrices by torch: it may not be shortened either
            assert torch.equal(q.log_prob(z), dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril).log_prob(z))
        return elbo(model, guide, x, beta)

    hook = nn.modules.module.register_module_forward_hook(lambda module, _, out: shortened.append(getattr(out, "dtype", None)))
    try:
        loss = step_of(vae, noted, precision="bf16")(x)
    finally:
        hook.remove()
    assert set(seen) == {torch.float32} and loss.dtype == torch.float32
    assert torch.bfloat16 in shortened
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", PAIRS)
def test_losses_in_bfloat16_are_those_of_float32_but_for_rounding_and_evaluation_is_exact(name):
    losses = {}
    for kind in precision.PRECISIONS:
        vae, x = make(name)
        step = step_of(vae, precision=kind)
        torch.manual_seed(1)
        evaluated = step.evaluate(x)
        losses[kind] = torch.stack([step(x) for _ in range(3)]), evaluated
    assert losses["bf16"][1] == losses["float32"][1]
    torch.testing.assert_close(losses["bf16"][0], losses["float32"][0], rtol=0.02, atol=0)
    assert not torch.equal(losses["bf16"][0], losses["float32"][0])


def test_a_draw_in_bfloat16_and_an_unknown_precision_are_refused():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(9, 4)

        def forward(self, x):
            loc, scale = self.map(x.flatten(1)).chunk(2, -1)
            return dist.Normal(loc, scale.exp()).to_event(1)

    pyro.clear_param_store()
    vae = VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=8), Encoder())
    with pytest.raises(ValueError, match=r"draws of 'z' in float32, got bfloat16: .* call .float\(\)"):
        step_of(vae, precision="bf16")(X)
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(ValueError, match="expected a precision of float32 or bf16, got 'half'"):
        step_of(vae, precision="half")
