# %% [markdown]
# # 8. Remedies, side by side
#
# There are many remedies against collapse. Each changes one part: the prior, the posterior, the objective, or the decoder. Here thirteen of them are trained on the
# same data with the same deep decoder, and measured in the same way. They differ in *what they pay*, and the plane of rate and distortion shows it.
#
# You will swap priors and posteriors by one argument, put fourteen models into one plane, and add a remedy of your own.
#
# *You need:* notebooks 2, 3 and 4. *Time:* 90 minutes. *It runs for* about two minutes.

# %%
# Installs the package where it is missing, as on Colab.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("pyro_skipvae") is None:
    checkout = next((folder for folder in Path.cwd().resolve().parents if (folder / "pyro_skipvae").is_dir()), "pyro_skipvae")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(checkout)], check=True)

# %%
import os
from functools import partial
from types import SimpleNamespace

import pyro
import torch
from matplotlib import pyplot
from pyro import poutine
from torch.distributions import kl_divergence

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import (
    BatchNormalisedNormal,
    DiagonalNormal,
    FullCovarianceNormal,
    InverseAutoregressiveFlow,
    MinimumRateNormal,
    VonMisesFisherPosterior,
)
from pyro_skipvae.objectives import analytic_elbo, elbo, free_bits_per_dimension, mmd
from pyro_skipvae.priors import AR1, MixtureOfNormals, NormalizingFlow, StandardNormal, UniformSphere, correlation_for
from pyro_skipvae.reports.figures import PALETTE, STYLE, rate_distortion
from pyro_skipvae.schedules import linear

SMOKE = "NOTEBOOK_SMOKE" in os.environ  # set by the tests: fewer steps, and no claims about trained models
pyplot.rcParams.update(STYLE | {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})


def check(answer, truth, tolerance):
    """Compare an answer of yours with the truth."""
    assert answer is not ... and answer is not None, "replace the ... by your answer"
    assert abs(answer - truth) <= tolerance, f"{answer:.4g} is not it; look at the hint, and at what you left out"
    print("right")


# %% [markdown]
# ## One function trains them all
#
# The decoder has six hidden layers and no skips: deep enough to collapse on the 8x8 digits. Everything that a remedy changes is an argument.

# %%
data = load_data("digits")
D, NATS = 10, 5.0  # dimensions of z; the rate that some remedies commit
EPOCHS = 2 if SMOKE else 40


def trained(*, prior=None, posterior=DiagonalNormal, latent_dim=D, skip="none", objective=elbo, beta=1.0):
    """Train a model and return its report."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    encoder = MLPEncoder(data.event_shape, latent_dim, hidden=(200,), posterior=posterior)
    decoder = MLPDecoder(latent_dim, data.event_shape, layers=6, width=100, skip=skip)
    vae = VAE(prior or StandardNormal(D), decoder, encoder)
    step = svi_step(vae.model, vae.guide, objective, pyro.optim.Adam({"lr": 2e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=EPOCHS, beta=beta):
        pass
    vae.eval()
    return collapse_report(vae.model, vae.guide, data.test, importance_samples=10)


reports = {"plain": trained()}
print(reports["plain"].verdict)

# %% [markdown]
# ## Swap the prior
#
# > **Predict before you run.** The decoder above ignores z. Which of these priors changes that: a learned mixture, a learned flow, an AR(1) prior with a committed
# > rate? And which raises the ELBO?

# %%
steps, channels = 5, 2
correlation = correlation_for(NATS, steps, channels)
reports["mixture prior"] = trained(prior=MixtureOfNormals(D, components=10))
reports["flow prior"] = trained(prior=NormalizingFlow(D))
reports["AR(1) prior"] = trained(prior=AR1(steps, channels, correlation=correlation), latent_dim=(steps, channels))

# %% [markdown]
# ## Swap the posterior
#
# A posterior family is one argument of the encoder. On the sphere the prior has to follow: a posterior lives where its prior does.

# %%
reports["full covariance"] = trained(posterior=FullCovarianceNormal)
reports["autoregressive flow"] = trained(posterior=InverseAutoregressiveFlow)
reports["batch-normalised"] = trained(posterior=partial(BatchNormalisedNormal, rate=NATS))
reports["minimum rate"] = trained(posterior=partial(MinimumRateNormal, rate=NATS))
reports["sphere"] = trained(prior=UniformSphere(D), posterior=partial(VonMisesFisherPosterior, rate=NATS))

# %% [markdown]
# ## Change the objective, or the decoder

# %%
warmup = linear(0.1, 1.0, EPOCHS // 2 * len(data.batches("train", 64, seed=0)))
reports["annealing"] = trained(beta=warmup)
reports["beta 0.3"] = trained(beta=0.3)
reports["free bits"] = trained(objective=free_bits_per_dimension(NATS / D))
reports["MMD"] = trained(objective=mmd(10.0))
reports["skips"] = trained(skip="all")

# %% [markdown]
# ## What they pay, and what they get
#
# > **Predict before you run.** Some of these commit or price a rate of five nats. In which of them does the *decoder* use it?

# %%
print(f"{'nats per datapoint':20} {'rate':>6} {'loss, z shuffled':>17} {'ELBO':>7}")
for name, report in reports.items():
    print(f"{name:20} {report.rate:6.2f} {report.shuffled_latent_loss:17.2f} {report.elbo:7.2f}")

# %%
figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
for height, report in enumerate(reports.values()):
    axes.barh(height - 0.18, report.rate, height=0.32, color=PALETTE[5], label="rate" if not height else None)
    loss = max(report.shuffled_latent_loss, 0.0)
    axes.barh(height + 0.18, loss, height=0.32, color=PALETTE[1], label="loss when z is shuffled" if not height else None)
axes.set_yticks(range(len(reports)), list(reports))
axes.invert_yaxis()
axes.set(xlabel="nats per datapoint", title="What is paid for z, and what the decoder loses without it")
axes.legend(loc="upper right")
pyplot.show()

# %% tags=["claim"]
if not SMOKE:
    plain = reports["plain"]
    for name in ("plain", "mixture prior", "flow prior", "full covariance", "autoregressive flow"):
        assert reports[name].rate < 0.5 and abs(reports[name].elbo - plain.elbo) < 0.5, name
    assert reports["minimum rate"].rate > 5 and reports["minimum rate"].shuffled_latent_loss < 0.5
    assert all(reports[name].shuffled_latent_loss > 5 for name in ("AR(1) prior", "batch-normalised", "sphere", "skips"))
assert all(reports[name].rate > NATS - 0.01 for name in ("AR(1) prior", "minimum rate", "sphere"))

# %% [markdown]
# **Result:** a learned prior or a richer posterior leaves a collapsed model collapsed. The minimum rate is paid and not used at all: the loss when z is shuffled is 0.
# Of the five that commit or price five nats the other four bring the decoder to use z: the AR(1) prior, batch-normalised means, the sphere and free bits. So do beta 0.3,
# MMD and skips, and annealing a little. No learned prior raises the ELBO.
#
# Why? A learned prior makes the rate cheaper, and a richer posterior makes it more exact; neither gives the decoder a reason to look at z. And a committed rate is
# no information: a posterior that pays five nats may say the same of every x.
#
# ## The plane of rate and distortion
#
# With D = -E log p(x|z) and R = KL(q(z|x) || p(z)), the ELBO is -(D + R): a line of slope -1 in the plane is a line of equal ELBO *(Alemi et al. 2018)*. Information lies
# between: H - D ≤ I(x; z) ≤ R, with H the entropy of the data, which is not known for images.
#
# > **Predict before you run.** Which remedies lie below the line through the plain model? Which on it, and which above?

# %%
figure, axes = pyplot.subplots(figsize=(8, 5.2), layout="constrained")
plane = [(name, report.estimates()["rate"], report.estimates()["distortion"]) for name, report in reports.items()]
points = [(name, rate.value, distortion.value, rate.half_width, distortion.half_width) for name, rate, distortion in plane]
rate_distortion(points, ax=axes)
axes.set_title("Every remedy in one plane; dashed: equal ELBO")
pyplot.show()

# %% tags=["claim"]
if not SMOKE:
    best = max(report.elbo for name, report in reports.items() if name != "skips")
    assert reports["skips"].elbo > best + 1
    assert reports["beta 0.3"].elbo > reports["plain"].elbo + 0.3 and reports["annealing"].elbo > reports["plain"].elbo + 0.3
    assert reports["MMD"].elbo < reports["plain"].elbo - 5 and reports["MMD"].rate > 15
    assert reports["minimum rate"].elbo < reports["plain"].elbo - 4

# %% [markdown]
# **Result:** skips have the best ELBO, by more than a nat. Beta 0.3, batch-normalised means, free bits and annealing *raise* the ELBO too: the plain model is stuck in a poor optimum. MMD has the lowest
# distortion and by far the largest rate; the minimum rate pays five nats for nothing. (Five models without any rate share one place at the left.)
#
# One data set, one seed, small networks: `skipvae-pyro compare --remedies` compares with seeds and intervals, and [which remedy?](../../../docs/remedies.md) says which to take when.
#
# ## Exercises
#
# **Exercise 1: the price of a nat.** From the plain model to beta 0.3: how many nats of distortion does each nat of rate save? *Hint:* a slope. What does a number above 1
# say of the plain model?

# %% tags=["exercise"]
saved = ...

# %% tags=["solution"]
plain, weighted = reports["plain"], reports["beta 0.3"]
saved = (plain.distortion - weighted.distortion) / (weighted.rate - plain.rate)

# %% tags=["check"]
change = {name: getattr(reports["beta 0.3"], name) - getattr(reports["plain"], name) for name in ("distortion", "rate")}
check(saved, -change["distortion"] / change["rate"], 1e-6)

# %% [markdown]
# **Exercise 2: paid in vain.** Write a function of a report that is True where more than 1 nat of rate is paid and the decoder loses less than a tenth of that when z is
# shuffled. Which of the models above does it name?


# %% tags=["exercise"]
def in_vain(report):
    return ...


# %% tags=["solution"]
def in_vain(report):
    return report.rate > 1 and report.shuffled_latent_loss < report.rate / 10


# %% tags=["check"]
cases = {(5.0, 0.1): True, (5.0, 4.0): False, (0.5, 0.0): False, (20.0, 1.5): True}
for (nats, loss), truth in cases.items():
    assert in_vain(SimpleNamespace(rate=nats, shuffled_latent_loss=loss)) is truth, f"rate {nats}, loss {loss} should be {truth}"
print("right:", [name for name, report in reports.items() if in_vain(report)])

# %% [markdown]
# **Exercise 3: a remedy of your own.** An objective is a function `(model, guide, x, beta=1.0)` that returns nats, summed over the batch. Write one in which every nat of
# rate that is lacking to NATS costs tenfold: $D + R + 10 \max(0, B \cdot \text{NATS} - R)$, with D and R summed over the B rows of the batch. *Hint:* `drawn = poutine.trace(guide).get_trace(x)`
# is a run of the guide, and `poutine.replay(model, trace=drawn)` is the model with its z, to be traced in the same way. `trace.nodes["z"]["fn"]` is the distribution of z in a run;
# `kl_divergence` of the guide's and the model's is R, a number for each row.


# %% tags=["exercise"]
def rate_of_at_least(model, guide, x, beta=1.0):
    return ...


# %% tags=["solution"]
def rate_of_at_least(model, guide, x, beta=1.0):
    drawn = poutine.trace(guide).get_trace(x)
    scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x)
    paid = kl_divergence(drawn.nodes["z"]["fn"], scored.nodes["z"]["fn"]).sum()
    distortion = -scored.nodes["x"]["fn"].log_prob(x).sum()
    return distortion + paid + 10 * (NATS * len(x) - paid).clamp(min=0)


# %% tags=["check"]
encoder = MLPEncoder(data.event_shape, D, hidden=(20,))
pair, x = VAE(StandardNormal(D), MLPDecoder(D, data.event_shape, layers=1, width=20), encoder), data.test[:20]
for shift in (0.0, 3.0):  # a posterior that pays too little, and one that pays enough
    with torch.no_grad():
        encoder.posterior.parameters_of.bias[:D] = shift
    torch.manual_seed(0)
    value = rate_of_at_least(pair.model, pair.guide, x)
    assert value is not ..., "replace the ... by your answer"
    torch.manual_seed(0)
    paid = kl_divergence(encoder(x), pair.prior().expand([len(x)])).sum()
    check(value.item(), (analytic_elbo(pair.model, pair.guide, x) + 10 * (NATS * len(x) - paid).clamp(min=0)).item(), 0.01)

# %%
reports["your own"] = trained(objective=rate_of_at_least)
print(f"rate {reports['your own'].rate:.2f}, loss when z is shuffled {reports['your own'].shuffled_latent_loss:.2f}, ELBO {reports['your own'].elbo:.2f} nats")

# %% [markdown] tags=["teaching"]
# <details><summary><b>Teaching notes</b></summary>
#
# - *"A better posterior prevents collapse"* is the usual prediction. It closes the gap between the bound and the likelihood, and a collapsed model has no such gap: its true
#   posterior is the prior.
# - *"A learned prior lets z carry more."* It lowers the price of what z carries already. With nothing carried there is nothing to make cheaper.
# - *"Five nats committed are five nats of information."* The minimum-rate model is the counter-example, and `batch-normalised` shows why active units alone mislead: ten of
#   ten are active in both.
# - *Exercise 1:* dividing by the rate of one model, or taking the ratio the other way round. A slope above 1 means that the ELBO rises along the way: the plain model is no
#   optimum of its own objective. Discuss why the optimiser does not find it.
# - *Exercise 2:* using active units, or information alone, which is 0.6 nats for the minimum rate: z says something, and the decoder does not listen.
# - *Exercise 3:* a mean in place of a sum; a maximum for each row (`free_bits_total` has its threshold for each row too, but charges nothing for a lack of rate); forgetting that below the threshold the slope in R is 1 - 10.
# - All of it is one seed. Let each student take another one, and collect the planes.
#
# </details>

# %% [markdown]
# ## References
#
# - A. Alemi, B. Poole, I. Fischer, J. Dillon, R. Saurous, K. Murphy, [Fixing a Broken ELBO](https://arxiv.org/abs/1711.00464), ICML 2018.
# - A. Dieng, Y. Kim, A. Rush, D. Blei, [Avoiding Latent Variable Collapse with Generative Skip Models](https://arxiv.org/abs/1807.04863), AISTATS 2019.
# - J. He, D. Spokoyny, G. Neubig, T. Berg-Kirkpatrick, [Lagging Inference Networks and Posterior Collapse](https://arxiv.org/abs/1901.05534), ICLR 2019.
# - A. Razavi, A. van den Oord, B. Poole, O. Vinyals, [Preventing Posterior Collapse with delta-VAEs](https://arxiv.org/abs/1901.03416), ICLR 2019.
# - S. Zhao, J. Song, S. Ermon, [InfoVAE](https://arxiv.org/abs/1706.02262), AAAI 2019.
