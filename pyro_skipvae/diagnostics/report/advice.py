"""What to try against a collapse: causes from the most certain to the least, each with what was measured of its remedy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Normal, Poisson
from torch import Tensor
from torch.distributions import Bernoulli

from pyro_skipvae.distributions.autoregressive import Autoregressive

from ..estimates.pairwise import factors, flat
from ..planning.prediction import CollapsePrediction, predict_collapse

MOST_ELEMENTS = 2048  # of one x, up to which the spectrum of the monitor's rows is looked at
TABLE_3 = "measured: MNIST, MLP of 4 layers, rate 17.8 -> 25.4 nats, three seeds (results/table3.json)"
TABLE_4 = "measured: PTB, LSTM, rate 0.02 -> 0.71 nats, one seed (results/table4.json)"
SKIP_SA = "measured: PTB, LSTM, rate 0.02 -> 4.17 nats together with skips, one seed (results/table4.json)"
FIGURE_4 = "measured: MNIST, PixelCNN of 3 layers, rate 3.0 -> {}, one seed (results/delta-vae-figure4.json)"
REMEDIES = "measured: MNIST, MLP of 5 layers, ELBO {} nats, rate 7.7 -> {}, three seeds (results/remedies-mnist.json)"
PTB = "measured: PTB, LSTM, rate 0.00 -> {}, one seed (results/remedies-ptb.json)"
EXACT = "exact for linear models (predict_collapse)"
UNMEASURED = "its effect was not measured here"


@dataclass(frozen=True)
class Advice:
    """A likely cause of a collapse, what to try against it, and the evidence for the effect of that remedy."""

    cause: str
    remedy: str
    evidence: str

    @property
    def measured(self) -> bool:
        """Whether `evidence` names a measurement or a proof of the remedy's effect."""
        return self.evidence != UNMEASURED

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy} ({self.evidence})"


@dataclass(frozen=True)
class Seen:
    """What a monitor knows of a pair whose latent variables are not used.

    autoregressive: whether p(x|z) reads x; None where it reads what the model is given, which may be x or a context.
    """

    prediction: CollapsePrediction | None
    beta: float
    autoregressive: bool | None
    encoder_varies: bool
    was_used: bool


@dataclass(frozen=True)
class Elements:
    """The elements x (n, E) of some rows, the family of p(x|z), and of a normal its variances, summed over the rows (E,)."""

    likelihood: str
    x: Tensor
    variances: Tensor | None = None


# (whether the cause fits, the cause, the remedy, the evidence), the most certain first.
TABLE: tuple[tuple[Callable[[Seen], bool], str, str, str], ...] = (
    (
        lambda seen: seen.prediction is not None and seen.prediction.active == 0,
        "the noise of p(x|z), or beta, is so large that no direction of x pays for its rate",
        "a smaller or a learned noise, a smaller beta",
        EXACT,
    ),
    (lambda seen: seen.beta > 1, "beta is above 1", "beta = 1", EXACT),
    (
        lambda seen: seen.encoder_varies and seen.autoregressive is False,
        "the encoder says something of x and the decoder ignores it",
        "skip connections from z into every layer of the decoder",
        TABLE_3,
    ),
    (
        lambda seen: seen.autoregressive is True,
        "the decoder models x from its other elements alone",
        "skip connections from z into every layer of the decoder",
        TABLE_4,
    ),
    (
        lambda seen: seen.autoregressive is True,
        "the decoder models x from its other elements alone",
        "free bits, free-bits-total(16)",
        FIGURE_4.format("15.9 nats, ELBO 3.1 worse"),
    ),
    (
        lambda seen: seen.autoregressive is True,
        "the decoder models x from its other elements alone",
        "for text, free bits, free-bits-total(8)",
        PTB.format("7.8 nats, ELBO 3.5 worse"),
    ),
    (
        lambda seen: seen.autoregressive is True,
        "the decoder models x from its other elements alone",
        "semi-amortized inference with skips",
        SKIP_SA,
    ),
    (
        lambda seen: seen.autoregressive is True,
        "the decoder models x from its other elements alone",
        "a decoder that sees less of x: word dropout, a small receptive field",
        PTB.format("0.00 nats with word dropout of 25 %"),
    ),
    (
        lambda seen: seen.was_used and seen.autoregressive is False,
        "z was used and then given up",
        "a beta that rises from 0.1 to 1 (warm-up)",
        REMEDIES.format("+8.5", "9.5"),
    ),
    (
        lambda seen: seen.was_used and seen.autoregressive is True,
        "z was used and then given up",
        "a beta that rises from 0.1 to 1 (warm-up)",
        PTB.format("0.02 nats"),
    ),
    (
        lambda seen: seen.was_used,
        "z was used and then given up",
        "a prior that commits a rate (delta-VAE)",
        FIGURE_4.format("12.1 nats with 8 committed, ELBO 9.1 worse"),
    ),
    (
        lambda seen: seen.autoregressive is False and not seen.encoder_varies,
        "a deep decoder starts without z",
        "skip connections from z into every layer of the decoder",
        REMEDIES.format("+36.9", "19.8"),
    ),
    (
        lambda seen: seen.autoregressive is False,
        "the rate costs more than it gains while the networks are new",
        "a beta below 1 in training, beta 0.4",
        REMEDIES.format("+11.6", "14.4"),
    ),
    (
        lambda seen: True,
        "the encoder lags behind the decoder",
        "several steps of the encoder for each of the decoder",
        UNMEASURED,
    ),
)


def advice_for(seen: Seen) -> list[Advice]:
    """The causes that fit, in the order of `TABLE`."""
    return [Advice(cause, remedy, evidence) for fits, cause, remedy, evidence in TABLE if fits(seen)]


def is_autoregressive(nodes: list[Any]) -> bool:
    """Whether p(x|z) is one of ours that reads x element by element; of others it is not known."""
    return any(isinstance(factors(node["fn"])[0], Autoregressive) for node in nodes)


def elements_of(nodes: list[Any]) -> Elements | None:
    """What a prediction takes of the observed sites of a run of the model; None for several of them, or too large ones."""
    if len(nodes) != 1 or nodes[0]["value"][0].numel() > MOST_ELEMENTS:
        return None
    (base, _), x = factors(nodes[0]["fn"]), nodes[0]["value"]
    if isinstance(base, Normal):
        return Elements("normal", flat(x), flat(base.scale.expand(x.shape)).double().square().sum(0).cpu())
    likelihood = "bernoulli" if isinstance(base, Bernoulli) else "poisson" if isinstance(base, Poisson) else None
    return Elements(likelihood, flat(x)) if likelihood else None


def predicted(parts: list[Elements | None], beta: float) -> CollapsePrediction | None:
    """What linear models could carry of these rows with the noise of p(x|z) as it is now; None where that is not known.

    The noise of an element is the root of its mean square.
    """
    known = [part for part in parts if part is not None]
    if not beta > 0 or len(known) < len(parts):
        return None
    likelihood, x = known[0].likelihood, torch.cat([part.x for part in known])
    if likelihood == "normal":
        noise = (torch.stack([part.variances for part in known if part.variances is not None]).sum(0) / len(x)).sqrt()
        return predict_collapse(x, noise, beta) if (noise > 0).all() else None
    fits = 0 <= x.min() and (likelihood != "bernoulli" or x.max() <= 1)
    return predict_collapse(x, beta=beta, likelihood=likelihood) if fits else None
