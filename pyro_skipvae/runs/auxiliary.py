"""The auxiliary prior of a run with an AR(1) prior or codes: fitted after training, kept in its folder, measured on tests."""

from dataclasses import asdict

import torch

from pyro_skipvae.diagnostics.pairs.interval import mean_interval
from pyro_skipvae.distributions.ar1 import normal_factors
from pyro_skipvae.priors import AuxiliaryPrior, CodesPrior, UniformCategorical, fit_auxiliary, fit_to_draws
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.runs import checkpoint

from .folder import Run, RunError

FILE = "auxiliary.safetensors"
ROWS, DRAWS = 500, 10
STEPS, BATCH = 500, 128  # of the fit to codes
POINTS = 10_000  # of the training data, that it is fitted to


def fit(vae, x, *, seed):
    """An auxiliary prior for a model, fitted to its posteriors of training data x (N, ...); random numbers stay as found."""
    prior = vae.prior()
    with forked([x.device], seed):
        if isinstance(vae.prior, UniformCategorical):
            return _fitted_to_codes(vae, x)
        loc, scale = _posteriors(vae, x)
        found = AuxiliaryPrior(tuple(prior.event_shape)).to(loc)
        fit_auxiliary(found, loc, scale)
    return found.eval()


def _fitted_to_codes(vae, x):
    """The prior of codes that is learned after training, fitted to draws from the posteriors of x."""
    found = CodesPrior(tuple(vae.prior().event_shape)).to(x.device)

    def draw():
        with torch.no_grad():
            return vae.posterior(x[torch.randint(len(x), (BATCH,), device=x.device)]).sample()

    fit_to_draws(found, draw, steps=STEPS)
    return found.eval()


def save(run, prior):
    """Keep an auxiliary prior in a run folder."""
    about = {"latent_dim": list(prior.event_shape), "codes": isinstance(prior, CodesPrior)}
    checkpoint.save(Run(run).path / FILE, about | {"weights": prior.state_dict()})


def exists(run):
    """Whether a run folder has an auxiliary prior."""
    return (Run(run).path / FILE).exists()


def load(run, device="cpu"):
    """The auxiliary prior of a run folder. Raises RunError where it has none, CheckpointError for one that is damaged."""
    file = Run(run).path / FILE
    if not exists(run):
        raise RunError(f"expected a run with an auxiliary prior, which a delta-VAE has after training, or codes, got {run}")
    state = checkpoint.load(file)
    prior = (CodesPrior if state.get("codes") else AuxiliaryPrior)(tuple(state["latent_dim"]))
    prior.load_state_dict(state["weights"])
    return prior.to(device).eval()


@torch.no_grad()
def measured(vae, prior, x, *, distortion, seed=0):
    """What a card says of it: its rate on x, that bounds the mutual information from above, and the ELBO with it, in nats.

        rate = E_x E_q[log q(z|x) - log r(z)],   ELBO = -distortion - rate

    `points` are those of the rate; the distortion is that of the report, on its `elbo_points`.
    """
    with forked([x.device], seed):
        terms = torch.cat([_terms(vae.posterior(part), prior()) for part in x.split(ROWS)])
    rate = mean_interval(terms)
    return {"rate": asdict(rate), "elbo": -distortion - rate.value, "points": len(x), "posterior_samples": DRAWS}


def _terms(q, r):
    z = q.sample((DRAWS,))
    return (q.log_prob(z) - r.log_prob(z)).double().mean(0)


@torch.no_grad()
def _posteriors(vae, x):
    factors = [normal_factors(vae.posterior(part)) for part in x.split(ROWS)]
    return tuple(torch.cat(part) for part in zip(*factors, strict=True))
