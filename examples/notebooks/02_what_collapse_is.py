# %% [markdown]
# # 2. What collapse is, where everything is known
#
# A latent dimension is *collapsed*, or *dead*, when its posterior is its prior: q(z_d|x) = p(z_d) for every x. Then z_d says nothing about x. In deep models
# it is hard to say what causes this: the decoder, the encoder, or the objective. In the **linear VAE** everything has a closed form, and the answer is short:
#
# > a dimension dies exactly when the variance of the data along its direction is below the variance of the noise in p(x|z).
#
# You will train one and see which of its dimensions die, find the same picture in information theory ("reverse water-filling"), and compute the weight
# beta of a β-VAE at which each dimension dies.
#
# *You need:* notebook 1, eigenvalues. *Time:* 90 minutes. *It runs for* about a minute.

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

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from pyro_skipvae import collapse_report, load_data, svi_step
from pyro_skipvae.reports.figures import PALETTE, STYLE

SMOKE = "NOTEBOOK_SMOKE" in os.environ  # set by the tests: fewer steps, and no claims about trained models
pyplot.rcParams.update(STYLE | {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
torch.set_default_dtype(torch.float64)


def check(answer, truth, tolerance):
    """Compare an answer of yours with the truth."""
    assert answer is not ... and answer is not None, "replace the ... by your answer"
    assert abs(answer - truth) <= tolerance, f"{answer:.4g} is not it; look at the hint, and at what you left out"
    print("right")


# %% [markdown]
# ## Data whose covariance is known
#
# 2,000 points in twelve dimensions, made so that their covariance has *exactly* the eigenvalues below. These are the variances of the data along its
# twelve principal directions.

# %%
EIGENVALUES = torch.tensor([9, 5, 3, 1.8, 1.2, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
LATENT = 6


def points_with(eigenvalues, count, seed=0):
    """Points whose mean is 0 and whose covariance (divisor N) is exactly diag(eigenvalues)."""
    x = torch.randn(count, len(eigenvalues), generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    factor = torch.linalg.cholesky(x.T @ x / count)
    return torch.linalg.solve_triangular(factor, x.T, upper=False).T * eigenvalues.sqrt()


x = points_with(EIGENVALUES, 2000)

# %% [markdown]
# ## The linear VAE
#
# $$z \sim N(0, I), \qquad x|z \sim N(Wz,\ \sigma^2 I), \qquad q(z|x) = N(Vx,\ \mathrm{diag}(s^2)).$$
#
# Six latent dimensions; the noise variance $\sigma^2$ is fixed. `poutine.scale` multiplies the log-probabilities inside it, here log p(z) and log q(z|x), by
# `beta`. That is the β-VAE, whose KL term has the weight β *(Higgins et al. 2017)*. At beta = 1 the objective is the ELBO.


# %%
class LinearVAE(nn.Module):
    """p(z) p(x|z) and q(z|x), all linear and normal, with a fixed variance of the noise."""

    def __init__(self, inputs, latent, variance):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(latent, inputs, bias=False), nn.Linear(inputs, latent, bias=False)
        self.log_scale, self.variance = nn.Parameter(torch.zeros(latent)), variance
        for weight in (self.decoder.weight, self.encoder.weight):
            nn.init.normal_(weight, 0.0, 0.01)  # a small start, so that all dimensions begin at the prior

    def model(self, x, beta=1.0):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(self.log_scale)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.variance**0.5).to_event(1), obs=x)

    def guide(self, x, beta=1.0):
        pyro.module("vae", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))


# %% [markdown]
# The *rate* is KL(q(z|x) || p(z)), averaged over x: what the ELBO charges for z. `rates` gives it for each dimension d: 1/2 (s² + mean² - 1 - ln s²). A dead
# dimension has rate 0.
#
# `svi_step` makes a function like `SVI(...).step`, which returns the loss in nats per datapoint, and skips a step whose loss or gradient is not finite.
# `TraceMeanField_ELBO` is Pyro's ELBO with the KL in closed form, which has less noise than `Trace_ELBO`.


# %%
@torch.no_grad()
def rates(vae, x):
    """The rate of each dimension in nats per datapoint, (D,)."""
    variance = (2 * vae.log_scale).exp()
    return 0.5 * (variance + vae.encoder(x).square().mean(0) - 1 - variance.log())


def train(x, *, latent=LATENT, variance=1.0, beta=1.0, steps=2000, seed=0, every=10):
    """A trained LinearVAE, and its rates over training, (records, D)."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    vae = LinearVAE(x.shape[1], latent, variance)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.998})
    step = svi_step(vae.model, vae.guide, TraceMeanField_ELBO(), optimizer)
    history = []
    for number in range(40 if SMOKE else steps):
        if number % every == 0:
            history.append(rates(vae, x))
        step(x, beta)
    return vae, torch.stack([*history, rates(vae, x)])


# %% [markdown]
# > **Predict before you run.** The noise has variance 1, and z has six dimensions. The six largest variances of the data are 9, 5, 3, 1.8, 1.2 and 0.9. How
# > many dimensions will be in use at the end? What is the rate of each? Can a dimension that is dead at the end be alive during training?

# %%
vae, history = train(x)
final = history[-1].sort(descending=True).values
known = 0.5 * EIGENVALUES[:LATENT].log().clamp(min=0)
for trained, expected, eigenvalue in zip(final, known, EIGENVALUES, strict=False):
    print(f"variance of the data {eigenvalue:.1f}: rate {trained:.3f} nats, 1/2 ln(variance / noise) is {expected:.3f}")

# %%
order = history[-1].argsort(descending=True)
when = torch.arange(len(history)) * 10
figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
for place, dimension in enumerate(order):
    colour = PALETTE[place] if place < 5 else "#6b6b6b"
    axes.axhline(known[place], color=colour, ls=":", lw=1)
    axes.plot(when, history[:, dimension], color=colour, lw=2)
    label = f"$\\lambda$ = {EIGENVALUES[place]:.1f}" + ("  dead" if place == 5 else "")
    axes.annotate(label, (when[-1], known[place]), (6, 0), textcoords="offset points", color=colour, va="center")
axes.set(xlabel="step", ylabel="rate of one dimension (nats)", xlim=(0, when[-1]), ylim=(-0.03, None))
axes.set_title(r"Each dimension takes one direction of the data, and its rate goes to $\frac{1}{2}\ln(\lambda/\sigma^2)$")
pyplot.show()

# %% tags=["claim"]
assert SMOKE or (final - known).abs().max() < 0.02
assert SMOKE or (final > 0.05).sum() == 5

# %% [markdown]
# **Result:** five of six dimensions are used. Each ends within 0.02 nats of 1/2 ln(λ/σ²) (dotted), λ being the variance of the data along its direction. The
# sixth, whose λ = 0.9 is below the noise, is dead.
#
# At first all six are in use, because each column of W still mixes several directions. A dimension dies only when the others have taken over its share.
#
# ## Why
#
# Up to a rotation of z, every stationary point of the likelihood is $W = U_A(\Lambda_A - \sigma^2 I)^{1/2}$. Here A is a set of eigenvectors of the data's
# covariance; $U_A$ has them as columns, and the diagonal matrix $\Lambda_A$ has their eigenvalues. The other columns of W are zero. The square root is real
# only where $\lambda > \sigma^2$: the noise accounts for a variance of σ² in every direction already, and W adds what is missing. At the optimum
#
# $$\text{variance of } q(z_i|x) = \min(1, \sigma^2/\lambda_i), \qquad \mathrm{KL}_i = \mathrm{MI}_i = \tfrac12 \ln^+(\lambda_i/\sigma^2).$$
#
# $\mathrm{KL}_i$ is the rate of dimension i, $\mathrm{MI}_i$ the mutual information of $z_i$ and x; ln⁺(a) is ln a, or 0 where a < 1. *(Tipping and Bishop
# 1999, section 3.2 and appendix A; Lucas et al. 2019, section 4.)*
#
# The *exact posterior* of this best model equals the prior along a dead dimension; the cell below computes it. So neither the encoder nor the ELBO causes
# the collapse: it is in the model of highest likelihood at this noise.

# %%
W = torch.diag((EIGENVALUES - 1.0).clamp(min=0).sqrt())[:, :LATENT]  # the best W at noise variance 1, in closed form
covariance = torch.linalg.inv(W.T @ W + torch.eye(LATENT))
print("variances of the exact posterior:", [round(value, 3) for value in covariance.diagonal().tolist()])

# %% tags=["claim"]
torch.testing.assert_close(covariance.diagonal(), (1 / EIGENVALUES[:LATENT]).clamp(max=1))

# %% [markdown]
# ## Reverse water-filling
#
# How many nats are needed to describe a normal vector, if some squared error is allowed? Shannon's answer is a picture. Draw the variances as bars, and fill
# them with water up to a level. What is under water is the error. A direction that is wholly under water gets no nats; any other gets 1/2 ln(λ/level).
# *(Cover and Thomas 2006, theorem 10.3.3.)*
#
# That is the linear VAE with the level σ². In the β-VAE the level is βσ²: everything above holds with βσ² in place of σ².
#
# > **Predict before you run.** In the right figure beta goes from 0.1 to 20. Is the rate a smooth function of beta? What happens to its slope when a
# > dimension dies?


# %%
def water_filling(eigenvalues, level):
    """(rate of each direction in nats, error of each direction)."""
    return 0.5 * (eigenvalues / level).log().clamp(min=0), eigenvalues.clamp(max=level)


betas = torch.logspace(-1, 1.3, 200)
curve = torch.stack([water_filling(EIGENVALUES[:LATENT], beta)[0] for beta in betas])  # (200, 6)
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
places = torch.arange(1, 13)
left.bar(places, EIGENVALUES, color=PALETTE[0], width=0.8, label="explained by z")
left.bar(places, EIGENVALUES.clamp(max=1.0), color=PALETTE[5], width=0.8, label="under water: left to the noise")
left.axhline(1.0, color=PALETTE[1], lw=1.5)
left.annotate(r"level $\beta\sigma^2$", (12.4, 1.0), (0, 4), textcoords="offset points", ha="right", color=PALETTE[1])
left.set(xlabel="direction", ylabel="variance", title="Variances of the data, and the water", xticks=places.tolist())
left.legend()
right.stackplot(betas, curve.T, colors=[*PALETTE[:5], "#6b6b6b"], alpha=0.85)
for eigenvalue in EIGENVALUES[:LATENT]:
    height = water_filling(EIGENVALUES, eigenvalue)[0].sum()
    right.plot(eigenvalue, height, "o", color="#222222", ms=3)
    right.annotate(f"{eigenvalue:.1f}", (eigenvalue, height), (4, 4), textcoords="offset points", fontsize=8)
right.set(xscale="log", xlabel=r"$\beta$   (noise variance 1)", ylabel="rate (nats)", xlim=(0.1, 20), ylim=(0, None))
right.set_title(r"Rate, one colour a dimension; dots: a death at $\beta = \lambda/\sigma^2$")
pyplot.show()

# %% tags=["claim"]
told, error = water_filling(EIGENVALUES, 1.0)
assert abs(told.sum() - 2.837692) < 1e-6 and (told > 0).sum() == 5
slopes = torch.diff(curve.sum(1)) / torch.diff(betas.log())
assert (slopes <= 1e-9).all() and torch.isclose(slopes[0], torch.tensor(-3.0)) and slopes[-1] == 0  # -k/2 with k alive

# %% [markdown]
# **Result:** left, at level 1 five directions rise above the water, with 2.84 nats in all. Right, over ln β the rate falls along straight lines of slope -k/2,
# where k is the number of dimensions alive: each death, marked with its λ, is a kink.
#
# ## The same for digits
#
# Images of 8x8 digits are not normally distributed, but what a linear VAE learns depends on their covariance alone.
#
# > **Predict before you run.** The next cell prints the variances of the digits along their first 24 principal directions. With noise of variance 0.05, how
# > many of 20 latent dimensions will be active?

# %%
digits = load_data("digits", binarisation="none").train.flatten(1).double()
digits = digits - digits.mean(0)
variances = torch.linalg.eigvalsh(digits.T @ digits / len(digits)).flip(0)
print([round(value, 3) for value in variances[:24].tolist()])

# %%
NOISE_OF_DIGITS = 0.05
predicted = int((variances[:20] > NOISE_OF_DIGITS).sum())
digit_vae, digit_history = train(digits, latent=20, variance=NOISE_OF_DIGITS)
report = collapse_report(digit_vae.model, digit_vae.guide, digits, importance_samples=50)
expected = water_filling(variances[:20], NOISE_OF_DIGITS)[0].sum()
print(f"predicted {predicted} dimensions and {expected:.3f} nats; found {report.active_units} and {report.rate:.3f}")

# %%
figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
axes.bar(range(1, 21), digit_history[-1].sort(descending=True).values, color=PALETTE[5], label="trained")
axes.plot(range(1, 21), water_filling(variances[:20], NOISE_OF_DIGITS)[0], "_", color=PALETTE[1], ms=12, mew=2, label="water-filling")
axes.set(xlabel="dimension, sorted", ylabel="rate (nats)", title="Digits: collapse is predicted by the covariance", xticks=range(1, 21))
axes.legend()
pyplot.show()

# %% tags=["claim"]
assert predicted == 18
assert SMOKE or (report.active_units == predicted and abs(report.rate - expected) < 0.02)
assert SMOKE or (digit_history[-1].sort(descending=True).values - water_filling(variances[:20], NOISE_OF_DIGITS)[0]).abs().max() < 0.02

# %% [markdown]
# **Result:** 18 dimensions are active, as many as the digits have variances above the noise, and each rate is within 0.02 nats of water-filling (orange).
#
# ## Exercises
#
# **Exercise 1: the beta at which dimension k dies.** Write the function, for the first data set and noise variance 1. The check trains models on both sides
# of the third death, which takes some seconds.


# %% tags=["exercise"]
def beta_of_death(k):
    """The beta from which on the k-th largest direction, k = 1..6, has rate 0; noise variance 1."""
    return ...


# %% tags=["solution"]
def beta_of_death(k):
    """The beta from which on the k-th largest direction, k = 1..6, has rate 0; noise variance 1."""
    return EIGENVALUES[k - 1].item() / 1.0


# %% tags=["check"]
check(beta_of_death(2), 5.0, 1e-9)
for factor, alive in ((0.7, 3), (1.4, 2)):  # train on both sides of the third death; not too near, where training is slow
    _, found = train(x, beta=factor * beta_of_death(3))
    assert SMOKE or (found[-1] > 0.05).sum() == alive, "the trained model does not agree"

# %% [markdown]
# **Exercise 2: choose the noise.** You want exactly three active dimensions at beta = 1, and the highest rate possible. Which noise variance do you take,
# and which rate do you get?

# %% tags=["exercise"]
noise_variance, highest_rate = ..., ...

# %% tags=["solution"]
noise_variance = EIGENVALUES[3].item()  # at 1.8 the fourth direction is just dead; a smaller noise would wake it
highest_rate = 0.5 * (EIGENVALUES[:3] / noise_variance).log().sum().item()

# %% tags=["check"]
check(noise_variance, 1.8, 0.011)
check(highest_rate, water_filling(EIGENVALUES, torch.tensor(1.8))[0].sum().item(), 0.02)

# %% [markdown]
# **Exercise 3: learn the noise.** If σ² is learned too, at the ELBO's optimum it is the mean of the variances that z leaves out. With a weight beta, n = 12
# dimensions of x, and the q largest directions alive, it solves $\sigma^2 (n - q\beta) = \sum_{i>q} \lambda_i$. The number q must fit its own result:
# $\lambda_q > \beta\sigma^2 \ge \lambda_{q+1}$. (At q = 6 only the first inequality counts, because z has no more dimensions.) Compute σ² at beta = 1 and at
# beta = 2. *Hint:* try q = 6, 5, 4, ... until q fits.


# %% tags=["exercise"]
def learned_variance(beta):
    return ...


# %% tags=["solution"]
def learned_variance(beta):
    for q in range(LATENT, -1, -1):
        if 12 - q * beta <= 0:
            continue
        variance = (EIGENVALUES[q:].sum() / (12 - q * beta)).item()
        if q == 0 or EIGENVALUES[q - 1] > beta * variance:
            return variance


# %% tags=["check"]
check(learned_variance(1.0), 0.45, 1e-9)
check(learned_variance(2.0), 1.1, 1e-9)

# %% [markdown]
# At beta = 1 the learned noise keeps all six dimensions alive (0.45 < 0.9). In this model collapse comes from a noise that is *fixed* too large, or from beta.
#
# **Exercise 4: dead for another reason.** Set a column of W, and the row of V that belongs to it, to exactly zero. Is their gradient zero? The direction has
# λ = 3 and the noise 1: does the dimension stay dead after a tiny push? Answer with two booleans.

# %% tags=["exercise"]
gradient_is_zero, stays_dead_after_a_push = ..., ...

# %% tags=["solution"]
gradient_is_zero, stays_dead_after_a_push = True, False  # a saddle: zero gradient, but the curvature is lambda - noise > 0

# %% tags=["check"]
assert isinstance(gradient_is_zero, bool) and isinstance(stays_dead_after_a_push, bool), "replace the ... by True or False"
start = LinearVAE(12, 1, 1.0)
for weight in (start.decoder.weight, start.encoder.weight):
    nn.init.zeros_(weight)
pyro.clear_param_store()
loss = TraceMeanField_ELBO().differentiable_loss(start.model, start.guide, x) / len(x)
gradients = torch.autograd.grad(loss, [start.encoder.weight, start.decoder.weight])
# The decoder's gradient is the mean of x z with z independent of x: zero but for the noise of 2,000 draws.
largest = max(gradients[0].abs().max().item(), gradients[1].abs().max().item() - 5 * (9 / 2000) ** 0.5)
assert gradient_is_zero == (largest < 1e-9), "look at the gradients"
_, pushed = train(points_with(torch.tensor([3.0, 0.5]), 2000), latent=1)  # train starts at 0.01 times a normal draw
assert SMOKE or stays_dead_after_a_push == bool(pushed[-1] < 0.05), "look at `pushed`"
print("right")

# %% [markdown] tags=["teaching"]
# <details><summary><b>Teaching notes</b></summary>
#
# - *"Six, since six are offered"* and *"five, but the sixth takes 0.9"* are the usual predictions. A rate is never negative: below the noise it is 0,
#   not small.
# - *"The rate of a dimension is 1/2 ln(1 + λ/σ²)"* confuses the variance of the data λ with that of the signal, λ - σ². With the signal it is
#   right: 1/2 ln(1 + (λ - σ²)/σ²).
# - *Exercise 1:* sqrt(λ), from thinking in standard deviations; or "all die at beta = 1", from reading beta > 1 as collapse as such.
# - *Exercise 2:* 3.0, the third variance, at which the third dimension is dead already. The interval is [1.8, 3.0); the rate is largest at its lower end.
# - *Exercise 3:* at beta = 2 the naive q = 6 gives 12 - 12 = 0 in the denominator: with a learned noise and a large beta collapse feeds itself, as more
#   noise kills more dimensions, which leave more to the noise. q = 5 gives 1.8, q = 4 gives 1.2, both inconsistent; q = 3 gives 6.6/6 = 1.1.
# - *Exercise 4:* "zero gradient, so it stays". Zero is a saddle as long as λ > σ². Deep networks have such plateaus too, which is why starts and
#   warm-ups matter.
# - What does *not* carry over to deep models: that the best ELBO equals the best likelihood; that KL and mutual information agree (here
#   the aggregated posterior is the prior). Notebook 4 takes them apart.
#
# </details>

# %% [markdown]
# ## References
#
# - T. M. Cover, J. A. Thomas, *Elements of Information Theory*, 2nd edition, Wiley 2006.
# - I. Higgins et al., [beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
#   Framework](https://openreview.net/forum?id=Sy2fzU9gl), ICLR 2017.
# - J. Lucas, G. Tucker, R. Grosse, M. Norouzi, [Don't Blame the ELBO!](https://arxiv.org/abs/1911.02469), NeurIPS 2019.
# - M. E. Tipping, C. M. Bishop, Probabilistic Principal Component Analysis, *Journal of the Royal Statistical Society B* 61, 1999.
# - Z. Wang, L. Ziyin, [Posterior Collapse of a Linear Latent Variable Model](https://arxiv.org/abs/2205.04009), NeurIPS 2022.
