"""What rate a model commits, by its prior or by its guide."""

from pyro_skipvae.guides import MinimumRateNormal, VonMisesFisherPosterior
from pyro_skipvae.priors import AR1


def committed_by(vae):
    """The rate in nats below which no posterior of a VAE can be, or None where its family can reach its prior."""
    if isinstance(vae.prior, AR1):
        return vae.prior.committed_rate()
    posterior = getattr(vae.encoder, "posterior", None)
    return posterior.rate if isinstance(posterior, MinimumRateNormal | VonMisesFisherPosterior) else None
