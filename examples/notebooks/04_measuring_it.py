# %% [markdown]
# # 4. Measuring it
#
# "The KL is 3 nats, the mutual information 9.2, 32 of 32 units are active." Papers on collapse are full of such numbers, and each can be misread. Here every
# number is held against a truth that is known.
#
# You will see when the rate is not information, where estimators of mutual information stop, what active units do not say, how fast importance sampling gets
# to log p(x), and how to ask whether the *decoder* uses z.
#
# *You need:* notebooks 1 and 2. *Time:* 90 minutes. *It runs for* less than a minute.

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
import math
import os

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot

from pyro_skipvae import collapse_report
from pyro_skipvae.diagnostics import log_likelihood
from pyro_skipvae.reports.figures import PALETTE, STYLE

SMOKE = "NOTEBOOK_SMOKE" in os.environ  # set by the tests: fewer points, and no claims that need many
pyplot.rcParams.update(STYLE | {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(0)


def check(answer, truth, tolerance):
    """Compare an answer of yours with the truth."""
    assert answer is not ... and answer is not None, "replace the ... by your answer"
    assert abs(answer - truth) <= tolerance, f"{answer:.4g} is not it; look at the hint, and at what you left out"
    print("right")


# %% [markdown]
# ## Rate and information
#
# The rate is what the ELBO charges for z. It splits exactly into two parts *(Hoffman and Johnson 2016)*:
#
# $$\underbrace{E_x\,\mathrm{KL}(q(z|x)\,\|\,p(z))}_{\text{rate}} = \underbrace{I_q(x; z)}_{\text{information}} +
# \underbrace{\mathrm{KL}(q(z)\,\|\,p(z))}_{\text{misfit}}, \qquad q(z) = E_x\, q(z|x).$$
#
# Only the first part says something about x. To test estimators we want to know it, so we build a *channel*: x is standard normal in 8 dimensions, and
#
# $$q(z|x) = N\big(\sqrt{1 - s^2}\, x,\ s^2 I\big), \qquad I_q(x; z) = -8 \ln s .$$
#
# Its q(z) is N(0, I), the prior, so here the misfit is 0. By the choice of s any information can be had.


# %%
def channel(information, dimensions=8, scale_of_z=1.0):
    """A pair with I_q(x; z) = `information` nats for standard normal x; z may be stretched, which changes no information."""
    variance = math.exp(-2 * information / dimensions)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = scale_of_z * (1 - variance) ** 0.5 * x
            pyro.sample("z", dist.Normal(loc, scale_of_z * variance**0.5).to_event(1))

    return model, guide


# %% [markdown]
# ## Estimators against the truth
#
# With N points there are N posteriors, and all estimators here compare the density of z under its own posterior with that under all of them:
#
# | estimator | formula | property |
# |---|---|---|
# | lower | mean of log q(z_i given x_i) - log 1/N Σ_j q(z_i given x_j) | at most ln N *(van den Oord et al. 2018, with the best critic)* |
# | upper | the same over j ≠ i, divided by N - 1 | explodes beyond ln N *(Poole et al. 2019)* |
# | fitted marginal | mean of log q(z_i given x_i) - log r(z_i), r fitted to other points | an upper bound, no ceiling *(Barber and Agakov 2003)* |
# | batches of 32 | the lower one, inside batches of 32 | at most ln 32 = 3.47 *(as in He et al. 2019)* |
#
# > **Predict before you run.** With N = 1,000 points, ln N = 6.9. What will the lower bound say at a true information of 12 nats? How wide will its 95 %
# > interval be there: wider or narrower than at 3 nats?

# %%
N = 200 if SMOKE else 1000
x = torch.randn(N, 8)
truths = (1.0, 4.0, 12.0) if SMOKE else (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0)
reports = {truth: collapse_report(*channel(truth), x, importance_samples=1, posterior_samples=5) for truth in truths}

# %%
figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
axes.plot([0, 14], [0, 14], color="#222222", lw=1)
axes.annotate("the truth", (11, 11), (4, -6), textcoords="offset points", rotation=37, rotation_mode="anchor", ha="left", va="top")
lines = {
    "lower bound": ([r.mi_lower.value for r in reports.values()], PALETTE[0], "-"),
    "upper bound": ([r.mi_upper.value for r in reports.values()], PALETTE[1], "-"),
    "fitted marginal": ([r.mi_marginal.value for r in reports.values()], PALETTE[2], "--"),
    "batches of 32": ([r.mi_he_2019_batch_32["value"] for r in reports.values()], PALETTE[3], "-"),
}
for name, (values, colour, style) in lines.items():
    axes.plot(truths, values, style, marker="o", ms=4, color=colour, lw=2, label=name)
axes.fill_between(truths, lines["lower bound"][0], lines["upper bound"][0], color=PALETTE[5], alpha=0.25, lw=0)
for ceiling, name in ((math.log(N), f"ln {N:,}"), (math.log(32), "ln 32")):
    axes.axhline(ceiling, color="#6b6b6b", ls=":", lw=1)
    axes.annotate(name, (14, ceiling), (0, 4), textcoords="offset points", ha="right", color="#6b6b6b")
axes.set(xlabel="true information (nats)", ylabel="estimate (nats)", xlim=(0, 14), ylim=(-0.2, 16))
axes.set_title("Four ways to read the same model: below the ceiling they agree, above it they do not")
axes.legend(loc="upper left")
pyplot.show()

# %%
for truth in (truths[-3], truths[-2]):
    r = reports[truth]
    print(f"truth {truth:4.1f}: lower {r.mi_lower.value:.3f} [{r.mi_lower.low:.3f}, {r.mi_lower.high:.3f}], saturated: {r.saturated}")

# %% tags=["claim"]
assert all(r.mi_lower.value <= r.mi_ceiling + 1e-9 for r in reports.values())
assert SMOKE or all(reports[t].mi_lower.low <= t <= reports[t].mi_upper.high for t in truths if t <= 5)
width = {truth: r.mi_lower.high - r.mi_lower.low for truth, r in reports.items()}
assert SMOKE or (6.7 < reports[12.0].mi_lower.value < 6.91 and width[12.0] < width[3.0] / 4)
assert SMOKE or all(abs(reports[t].mi_marginal.value - t) < 0.4 for t in truths)
assert SMOKE or reports[12.0].mi_upper.value > 14

# %% [markdown]
# **Result:** up to 5 nats the truth lies between lower and upper bound; at 12 nats the lower bound reads 6.8 to 6.9, its ceiling, with an interval a quarter as wide as at 3 nats.
#
# A narrow interval around a number about nothing: at its ceiling the lower bound measures N. Reports therefore set `saturated`. Only the fitted marginal
# follows the truth all the way, within 0.4 nats, and here it is favoured: the true q(z) is a normal, which it can fit.
#
# ## Active units
#
# A unit is active if its posterior mean varies over x: Var_x(E_q[z_d]) ≥ 0.01 *(Burda, Grosse and Salakhutdinov 2016)*.
#
# > **Predict before you run.** The two channels below have the same information, 3 nats. In the second, z is multiplied by 0.1. How many of eight units
# > are active in each? And what of the decoder's side?

# %%
for scale_of_z in (1.0, 0.1):
    r = collapse_report(*channel(3.0, scale_of_z=scale_of_z), x, importance_samples=1)
    print(f"z times {scale_of_z}: {r.active_units} active units, information {r.mi_lower.value:.2f} to {r.mi_upper.value:.2f}, rate {r.rate:.1f} nats")

# %% tags=["claim"]
units = [collapse_report(*channel(3.0, scale_of_z=s), x, importance_samples=1).active_units for s in (1.0, 0.1)]
assert units == [8, 0]

# %% [markdown]
# **Result:** eight active units and none, at the same information. The threshold of 0.01 is in the units of z.
#
# Normally the prior fixes that unit, so the count is useful beside the rest. Alone it proves nothing.
#
# ## log p(x) by importance sampling
#
# $$\log p(x) \ge E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x),$$
#
# which is the ELBO at K = 1 and rises to log p(x) *(Burda et al. 2016, theorem 1)*. The linear VAE of notebook 2 has everything in closed form. Its guide is
# made worse on purpose: all means are multiplied by 0.8.
#
# > **Predict before you run.** At K = 1 the gap is 0.72 nats. How large is it at K = 10, and at K = 100?

# %%
EIGENVALUES = torch.tensor([9, 5, 3, 1.8, 1.2, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
VARIANCE = 0.5


def linear_pair(shrink):
    """The best linear VAE at noise variance 0.5, whose guide has the means of the exact posterior times `shrink`."""
    weight = torch.diag((EIGENVALUES - VARIANCE).clamp(min=0).sqrt())[:, :6]
    covariance = VARIANCE * torch.linalg.inv(weight.T @ weight + VARIANCE * torch.eye(6))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, VARIANCE**0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = shrink * x @ weight @ covariance / VARIANCE
            pyro.sample("z", dist.Normal(loc, covariance.diagonal().sqrt()).to_event(1))

    return model, guide


x12 = torch.randn(100 if SMOKE else 3000, 12) @ torch.diag(EIGENVALUES.sqrt())
exact = log_likelihood(*linear_pair(1.0), x12, importance_samples=1).value  # the weights of the exact posterior are constant
draws = (1, 10) if SMOKE else (1, 3, 10, 30, 100, 300)
gaps = torch.tensor([exact - log_likelihood(*linear_pair(0.8), x12, importance_samples=K, rows=30_000).value for K in draws])

figure, axes = pyplot.subplots(figsize=(5.4, 3.4), layout="constrained")
axes.loglog(draws, gaps, "o-", color=PALETTE[0], lw=2)
axes.loglog(draws, gaps[-1] * draws[-1] / torch.tensor(draws), ":", color="#6b6b6b", lw=1)
axes.annotate("1/K", (draws[1], gaps[-1] * draws[-1] / draws[1]), (6, 4), textcoords="offset points", color="#6b6b6b")
axes.set(xlabel="draws K", ylabel="log p(x) minus estimate (nats)", title="Importance sampling closes the gap, slower than 1/K at first")
pyplot.show()

# %% tags=["claim"]
assert SMOKE or abs(gaps[0] - 0.716) < 0.1  # 0.02 (2 sum of the first six variances - 6); one draw varies by 1.2 nats
assert SMOKE or (gaps[2] < gaps[0] / 4 and gaps[4] < 0.04)
assert SMOKE or (abs(gaps[2] - 0.127) < 0.03 and abs(gaps[4] - 0.027) < 0.015)
assert SMOKE or (torch.diff(gaps) < 0).all()

# %% [markdown]
# **Result:** with 10 draws less than a quarter of the gap is left, and 100 draws come within 0.04 nats of the truth, where the ELBO is 0.7 nats low.
#
# That guide is good. Where few of the K weights carry the sum (`effective_sample_size` in the report), the estimate may be nats too low, and nothing in its
# interval shows it.
#
# ## Does the decoder use z?
#
# All so far asked about the *encoder*. The decoder is asked by giving it the z of another datapoint: if it loses nothing, it does not use z.
# `shuffled_latent_loss` is that loss, E[log p(x|z) - log p(x|z of another point)].

# %%
print(reports[truths[1]].verdict)

# %% [markdown]
# ## Exercises
#
# **Exercise 1: a high rate and no information.** Write a guide for the channel's model with a rate above 5 nats and an information of 0. *Hint:* the
# misfit has to do all of the work.


# %%
model, _ = channel(1.0)


# %% tags=["exercise"]
def empty_guide(x):
    return ...


# %% tags=["solution"]
def empty_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.full_like(x, 2.0), 0.5).to_event(1))  # far from the prior, the same for every x


# %% tags=["check"]
try:
    empty = collapse_report(model, empty_guide, x, importance_samples=1)
except Exception as reason:
    raise AssertionError(f"that is no guide yet: {reason}") from None
assert empty.rate > 5, f"the rate is {empty.rate:.2f} nats"
assert empty.mi_upper.high < 0.05, f"the information may be {empty.mi_upper.high:.2f} nats"
print(f"right: rate {empty.rate:.2f} nats, information at most {empty.mi_upper.high:.3f}; {empty.verdict.kind}")

# %% [markdown]
# **Exercise 2: an encoder that talks to nobody.** Write a model for which the channel's guide at 3 nats has information, while the decoder ignores it. What will
# the verdict be called?


# %% tags=["exercise"]
def deaf_model(x):
    return ...


# %% tags=["solution"]
def deaf_model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)  # p(x|z) without z


# %% tags=["check"]
try:
    deaf = collapse_report(deaf_model, channel(3.0)[1], x, importance_samples=1)
except Exception as reason:
    raise AssertionError(f"that is no model yet: {reason}") from None
assert deaf.mi_lower.low > 2 and abs(deaf.shuffled_latent_loss) < 1e-6, "the decoder still uses z"
assert deaf.verdict.kind == "collapsed on the decoder's side"
print(f"right: {deaf.verdict}")

# %% [markdown]
# **Exercise 3: enough points.** You want to show that a model has at least 10 nats. How many points does the lower bound need at the very least? And how many,
# if it is to stay 2 nats below its ceiling?

# %% tags=["exercise"]
points_at_least, points_to_be_safe = ..., ...

# %% tags=["solution"]
points_at_least, points_to_be_safe = math.exp(10), math.exp(12)

# %% tags=["check"]
check(points_at_least, 22_026.5, 50)
check(points_to_be_safe, 162_755, 500)

# %% [markdown]
# **Exercise 4: two papers.** Paper A has a mutual information of 3.40 from batches of 32, paper B of 9.15 from 10,000 points. Give the ceilings of both. Does model B
# have more information than model A: True, False, or None if the numbers do not tell?

# %% tags=["exercise"]
ceiling_a, ceiling_b, b_has_more = ..., ..., ...

# %% tags=["solution"]
ceiling_a, ceiling_b, b_has_more = math.log(32), math.log(10_000), None

# %% tags=["check"]
check(ceiling_a, 3.466, 0.005)
check(ceiling_b, 9.210, 0.005)
assert b_has_more is None, "both stand at their ceilings: what would A read if it had 20 nats?"

# %% [markdown]
# **Exercise 5: from ELBO and rate.** A model has an ELBO of -90 and a rate of 25 nats; log p(x) by importance sampling is -87. Give its distortion
# -E[log p(x|z)] and the KL between q(z|x) and the true posterior. Does the information exceed 25 nats (True or False)?

# %% tags=["exercise"]
distortion, posterior_gap, may_exceed = ..., ..., ...

# %% tags=["solution"]
distortion, posterior_gap, may_exceed = 90 - 25, -87 - (-90), False  # information = rate - misfit, and the misfit is no less than 0

# %% tags=["check"]
check(distortion, 65, 0)
check(posterior_gap, 3, 0)
assert may_exceed is False, "rate = information + misfit"

# %% [markdown] tags=["teaching"]
# <details><summary><b>Teaching notes</b></summary>
#
# - *"Beyond the ceiling the interval gets wide."* The opposite: every point gives the same ln N. A narrow interval is no sign of truth.
# - *"The truth is the mean of lower and upper bound."* Beyond ln N the upper bound means nothing.
# - *Active units:* "the rate tells them apart". It does, but the wrong way round: the shrunk z pays a huge misfit at the same information.
# - *Importance sampling:* "the error falls as 1/sqrt(K)". That is the deviation of an average; the *bias* of the logarithm falls as 1/K once the weights are tame.
# - *Exercise 1:* a guide with a wide scale in one dimension and information in the others; or the answer "impossible, since the KL is positive". Ask who pays: the
#   misfit. An AR(1) prior forces exactly this price (notebook 6).
# - *Exercise 2:* "collapsed, so the rate is zero". The encoder of this model still pays 3 nats for nothing. Training would take that away, slowly.
# - *Exercise 3:* 10 times e, or "10,000 points, as in the paper".
# - *Exercise 4:* True. A's estimator cannot say more than 3.47, whatever the model.
# - *Exercise 5:* a distortion of 115 (the sign of the rate), or a gap of 28 (rate added).
#
# </details>

# %% [markdown]
# ## References
#
# - D. Barber, F. Agakov, [The IM algorithm](https://papers.nips.cc/paper/2410-information-maximization-in-noisy-channels-a-variational-approach), NIPS 2003.
# - Y. Burda, R. Grosse, R. Salakhutdinov, [Importance Weighted Autoencoders](https://arxiv.org/abs/1509.00519), ICLR 2016.
# - J. He, D. Spokoyny, G. Neubig, T. Berg-Kirkpatrick, [Lagging Inference Networks and Posterior Collapse](https://arxiv.org/abs/1901.05534), ICLR 2019.
# - M. D. Hoffman, M. J. Johnson, ELBO surgery, NIPS workshop on approximate inference 2016.
# - A. van den Oord, Y. Li, O. Vinyals, [Representation Learning with Contrastive Predictive Coding](https://arxiv.org/abs/1807.03748), 2018.
# - B. Poole, S. Ozair, A. van den Oord, A. A. Alemi, G. Tucker, [On Variational Bounds of Mutual Information](https://arxiv.org/abs/1905.06922), ICML 2019.
