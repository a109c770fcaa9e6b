# %% [markdown]
# # 5. Semi-amortized inference
#
# An encoder answers every x in one pass, and not always well. *Semi-amortized* inference (Kim, Wiseman, Miller, Sontag and Rush 2018) takes its answer as the start of
# a few gradient steps on the ELBO of that one datapoint, and trains the encoder *through* these steps.
#
# You will write the nested loop by hand, check its gradient against a closed form, see what happens when one `detach` too many slips in, and measure how much of the
# inference gap is closed.
#
# *You need:* notebooks 1 and 2. *Time:* 90 minutes. *It runs for* about a minute.

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
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from pyro_skipvae import VAE, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.diagnostics import inference_gap
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import SemiAmortized, compare_gradients
from pyro_skipvae.objectives import analytic_elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reports.figures import PALETTE, STYLE

SMOKE = "NOTEBOOK_SMOKE" in os.environ  # set by the tests: fewer steps, and no claims about trained models
pyplot.rcParams.update(STYLE | {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})


def check(answer, truth, tolerance):
    """Compare an answer of yours with the truth."""
    assert answer is not ... and answer is not None, "replace the ... by your answer"
    assert abs(answer - truth) <= tolerance, f"{answer:.4g} is not it; look at the hint, and at what you left out"
    print("right")


# %% [markdown]
# ## The loop by hand
#
# The *local parameters* of a datapoint are the mean and the log variance of its q(z|x), together λ. With f = -ELBO of that datapoint:
#
# $$v_{k+1} = \gamma v_k - \nabla f(\lambda_k), \qquad \lambda_{k+1} = \lambda_k + \alpha v_{k+1}, \qquad \lambda_0 = \mathrm{encoder}(x).$$
#
# *(Kim et al. 2018, algorithm 1; γ is the momentum, α the step size.)*
#
# We begin with the linear model, x = W z + noise of variance σ². There f is a parabola in the mean, so we know what has to come out.

# %%
torch.manual_seed(0)
W = torch.tensor([[1.2, 0.3], [0.0, 0.3], [0.5, -0.2], [0.2, 0.1]], dtype=torch.float64)
VARIANCE = 0.25
x = torch.randn(5, 2, dtype=torch.float64) @ W.T + VARIANCE**0.5 * torch.randn(5, 4, dtype=torch.float64)
precision = W.T @ W / VARIANCE + torch.eye(2, dtype=torch.float64)  # of the exact posterior p(z|x)
best_mean = x @ W @ torch.linalg.inv(precision) / VARIANCE
print("eigenvalues of the posterior's precision:", torch.linalg.eigvalsh(precision).tolist())


# %%
def negative_elbo(mean, log_variance, x):
    """-ELBO in closed form, up to a constant, summed over the rows; mean and log_variance (B, D)."""
    error = (x - mean @ W.T).square().sum() + (log_variance.exp() @ (W.T @ W).diagonal()).sum()
    rate = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()
    return 0.5 * error / VARIANCE + rate


def refine(mean, log_variance, x, *, steps, lr, momentum=0.0):
    """lambda_K, in the graph: what comes out can be differentiated in what went in."""
    velocity = [torch.zeros_like(mean), torch.zeros_like(log_variance)]
    for _ in range(steps):
        gradients = torch.autograd.grad(negative_elbo(mean, log_variance, x), [mean, log_variance], create_graph=True)
        velocity = [momentum * v - g for v, g in zip(velocity, gradients, strict=True)]
        mean, log_variance = mean + lr * velocity[0], log_variance + lr * velocity[1]
    return mean, log_variance


# %% [markdown]
# > **Predict before you run.** Without momentum the error of the mean obeys $m_{k+1} - m^* = (I - \alpha\Lambda)(m_k - m^*)$, Λ being the precision
# > above. With α = 0.1, which of the two eigendirections converges first?

# %%
start = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True), torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
mean, log_variance = refine(*start, x, steps=10, lr=0.1)
shrinking = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - 0.1 * precision, 10)
print("error after 10 steps, found: ", (mean - best_mean)[0].tolist())
print("error after 10 steps, theory:", ((start[0] - best_mean) @ shrinking)[0].tolist())

# %% tags=["claim"]
torch.testing.assert_close(mean, best_mean + (start[0] - best_mean) @ shrinking)

# %% [markdown]
# They agree to 13 digits: in a step the error along the direction of the larger eigenvalue shrinks to 0.19 of what it was, along the other one to 0.83. The same by the package: `SemiAmortized` is a guide made from a model and a guide. Its steps draw z afresh; with the
# noise set to zero its mean goes the same way.


# %%
def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, VARIANCE**0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))


refined = SemiAmortized(model, guide, steps=10, lr=0.1, momentum=0.0)
without_noise = refined.refine(x, noise=[torch.zeros(5, 2, dtype=torch.float64)] * 10)

# %% tags=["claim"]
torch.testing.assert_close(without_noise.mean, mean.detach())

# %% [markdown]
# ## The gradient that the encoder gets
#
# The loss is f at the *end*, λ_K; the encoder made the *beginning*, λ_0. The chain rule passes through all K steps. For the mean of the linear model:
#
# $$\nabla_{m_0} f(\lambda_K) = (I - \alpha\Lambda)^K\, \nabla f(m_K).$$
#
# Three ways to treat the steps: keep them in the graph (*exact*); pretend that $d\lambda_K / d\lambda_0 = I$ (*first-order*, or straight-through); or cut the graph
# (*detach*).
#
# > **Predict before you run.** Order the three by the length of the gradient that reaches λ_0. Which of them is zero?


# %%
def gradient_at_the_start(treat):
    """The gradient of the final loss in m_0, (5, 2), by one of three treatments of the steps."""
    m0, l0 = (torch.zeros(5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    m, lv = refine(m0, l0, x, steps=3, lr=0.1)
    if treat == "first-order":
        m, lv = m0 + (m - m0).detach(), l0 + (lv - l0).detach()  # the value of lambda_K, the derivative of lambda_0
    if treat == "detach":
        m, lv = m.detach() + 0 * m0, lv.detach() + 0 * l0  # "+ 0" only so that there is a graph to differentiate
    return torch.autograd.grad(negative_elbo(m, lv, x), m0)[0]


gradients = {treat: gradient_at_the_start(treat) for treat in ("exact", "first-order", "detach")}
for treat, gradient in gradients.items():
    print(f"{treat:12} length {gradient.norm():.4f}")

# %% tags=["claim"]
three_steps = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - 0.1 * precision, 3)
torch.testing.assert_close(gradients["exact"], gradients["first-order"] @ three_steps)
assert 0 == gradients["detach"].norm() < gradients["exact"].norm() < gradients["first-order"].norm()

# %% [markdown]
# **Result:** detached, the gradient is exactly zero; the exact one is the first-order one times (I - αΛ)³, and shorter.
#
# That is a lesson in itself: *the better the refinement, the less the encoder is told*. After many good steps the start no longer matters.
#
# ## On digits
#
# A decoder is trained with an encoder of the usual kind. Then it is frozen, and given a new encoder that is as poor as can be: *linear* in the pixels.


# %%
class LinearEncoder(nn.Module):
    """q(z|x) whose mean and log scale are linear in x (B, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2 * D)

    def forward(self, x):
        loc, log_scale = self.linear(x.flatten(1)).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


data = load_data("digits")
D = 10


def new_vae(encoder):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return VAE(StandardNormal(D), MLPDecoder(D, (8, 8), layers=2, width=100, skip="none"), encoder())


def train(vae, epochs):
    step = svi_step(vae.model, vae.guide, analytic_elbo, pyro.optim.Adam({"lr": 2e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if SMOKE else epochs):
        pass
    return vae


vae = train(new_vae(lambda: MLPEncoder((8, 8), D, hidden=(100,))), epochs=60)
decoder = vae.decoder.requires_grad_(False).eval()
pyro.clear_param_store()
vae = train(VAE(StandardNormal(D), decoder, LinearEncoder()), epochs=60)
amortized = vae.guide


# %%
def elbo(vae, guide, draws=20):
    """The ELBO on the test images in nats per image, by `draws` draws of z after one refinement."""
    q = guide.refine(data.test)

    def drawn(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    pyro.set_rng_seed(1)
    with torch.no_grad():
        return -sum(TraceMeanField_ELBO().loss(vae.model, drawn, data.test) for _ in range(draws)) / draws / len(data.test)


# %% [markdown]
# > **Predict before you run.** The figure shows the ELBO after 0 to 128 refinement steps, begun at the encoder's answer and begun at zeros (stochastic
# > variational inference). Do the two curves meet? Do they reach log p(x)?

# %%
counts = (0, 2) if SMOKE else (0, 1, 2, 4, 8, 16, 32, 64, 128)
curves = {begin: [] for begin in ("amortized", "zeros")}
for begin, values in curves.items():
    for steps in counts:
        pyro.set_rng_seed(2)
        values.append(elbo(vae, SemiAmortized(vae.model, amortized, steps=steps, lr=1 / 64, start=begin)))

best_guide = SemiAmortized(vae.model, amortized, steps=counts[-1], lr=1 / 64)
images = data.test[:20] if SMOKE else data.test
gap = inference_gap(vae.model, best_guide, amortized, images, importance_samples=20 if SMOKE else 500)

# %%
figure, axes = pyplot.subplots(figsize=(7, 4.4), layout="constrained")
axes.axhline(gap.log_likelihood.value, color="#222222", ls=":", lw=1)
axes.annotate("log p(x), importance sampling", (counts[1], gap.log_likelihood.value), (0, 4), textcoords="offset points")
axes.axhline(curves["amortized"][0], color="#6b6b6b", ls=":", lw=1)
axes.annotate("the encoder alone", (counts[1], curves["amortized"][0]), (0, -12), textcoords="offset points", color="#6b6b6b")
axes.plot(counts, curves["amortized"], "o-", color=PALETTE[0], lw=2, ms=4, label="begun at the encoder's answer")
axes.plot(counts, curves["zeros"], "o-", color=PALETTE[1], lw=2, ms=4, label="begun at zeros")
for low, high, name in (
    (curves["amortized"][0], curves["amortized"][-1], "amortization gap"),
    (curves["amortized"][-1], gap.log_likelihood.value, "approximation gap"),
):
    axes.annotate("", (counts[-1] * 1.12, low), (counts[-1] * 1.12, high), arrowprops={"arrowstyle": "<->", "color": "#6b6b6b", "shrinkA": 0, "shrinkB": 0})
    axes.annotate(name, (counts[-1] * 1.2, (low + high) / 2), color="#6b6b6b", va="center", fontsize=8)
axes.set_xscale("symlog", linthresh=1)
axes.set(xlabel="refinement steps", ylabel="ELBO, nats per image", xticks=counts, xlim=(-0.05, counts[-1] * 3.2))
axes.set_xticklabels([str(count) for count in counts])
axes.minorticks_off()
axes.set_ylim(curves["amortized"][0] - 0.9, gap.log_likelihood.value + 0.2)
axes.set_title("A few steps on each image's own ELBO win back what the encoder loses")
axes.legend(loc="lower left")
pyplot.show()
print(f"amortization gap {gap.amortization_gap.value:.2f} [{gap.amortization_gap.low:.2f}, {gap.amortization_gap.high:.2f}], "
      f"approximation gap {gap.approximation_gap.value:.2f} [{gap.approximation_gap.low:.2f}, {gap.approximation_gap.high:.2f}] nats")  # fmt: skip

# %% tags=["claim"]
assert SMOKE or (gap.amortization_gap.low > 0.1 and gap.amortization_gap.high < 0.5)
assert SMOKE or abs(curves["amortized"][-1] - curves["zeros"][-1]) < 0.1
assert SMOKE or curves["zeros"][0] < curves["amortized"][0] - 5

# %% [markdown]
# **Result:** refinement gains between 0.1 and 0.5 nats (its 95 % interval lies inside): the amortization gap. Begun at zeros, the ELBO starts more than 5 nats
# lower, below the figure, and ends within 0.1 nats of the other curve.
#
# What is left is the approximation gap: a diagonal normal does not get nearer. *(The split is that of Cremer, Li and Duvenaud 2018; log p(x) is itself a lower
# bound, and the steps have not wholly converged.)*
#
# ## Training through the steps
#
# Refined guides are trained like any other. The gradients can be compared on one batch:

# %%
for found in compare_gradients(vae.model, amortized, data.test[:64], steps=5, rounds=1, gradients=("exact", "exact-rebuilt", "first-order")):
    print(f"{found.gradient:14} encoder: cosine {found.encoder_cosine:5.2f}, relative error {found.encoder_error:.1e}")

# %%
plain = train(new_vae(LinearEncoder), epochs=60)
through = new_vae(LinearEncoder)
through.guide = SemiAmortized(through.model, through.guide, steps=5)
train(through, epochs=60)
by_encoder, by_steps = elbo(plain, SemiAmortized(plain.model, plain.guide, steps=0)), elbo(through, through.guide)
print(f"trained without steps: {by_encoder:.2f} by the encoder; trained through 5 steps: {by_steps:.2f} after 5 steps (nats per image)")

# %% tags=["claim"]
assert SMOKE or by_steps > by_encoder + 0.1

# %% [markdown]
# **Result:** with a linear encoder, the model trained through five steps has an ELBO at least 0.1 nats better than the one trained without (one seed, so no more is
# claimed).
#
# ## Exercises
#
# **Exercise 1: why detaching kills the encoder.** Complete `straight_through`: its *value* is that of the refined parameters, its *derivative* that of the start. No gradient
# flows through the steps, and the encoder still learns. *Hint:* one line, with one `.detach()`.


# %% tags=["exercise"]
def straight_through(start, refined):
    return ...


# %% tags=["solution"]
def straight_through(start, refined):
    return start + (refined - start).detach()


# %% tags=["check"]
begin, end = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 5.0], requires_grad=True)
found = straight_through(begin, end)
assert found is not ... and found is not None, "replace the ... by your answer"
assert torch.equal(found, end), "the value is not that of the refined parameters"
found.square().sum().backward()
assert begin.grad is not None and torch.equal(begin.grad, 2 * end.detach()), "the encoder is not told"
assert end.grad is None, "the gradient still goes through the steps"
print("right")

# %% [markdown]
# **Exercise 2: the largest step.** Without momentum, from which step size on does the refinement of the linear model diverge? *Hint:* |1 - αλ| < 1 for every eigenvalue λ of
# the precision.

# %% tags=["exercise"]
largest_step = ...

# %% tags=["solution"]
largest_step = 2 / torch.linalg.eigvalsh(precision).max().item()

# %% tags=["check"]
check(largest_step, 2 / torch.linalg.eigvalsh(precision)[-1].item(), 1e-3)
for factor, converges in ((0.98, True), (1.02, False)):
    m = torch.zeros(5, 2, dtype=torch.float64)
    for _ in range(400):
        m = m - factor * largest_step * (m - best_mean) @ precision
    assert ((m - best_mean).abs().max() < 1.0) == converges

# %% [markdown]
# **Exercise 3: how many steps?** With α = 1/λ_max, how many steps make the error 100 times smaller in *every* direction?

# %% tags=["exercise"]
steps_needed = ...

# %% tags=["solution"]
low, high = torch.linalg.eigvalsh(precision).tolist()
steps_needed = math.ceil(math.log(100) / -math.log(1 - low / high))  # the slow direction shrinks by 1 - low / high in a step

# %% tags=["check"]
low, high = torch.linalg.eigvalsh(precision).tolist()
check(steps_needed, math.log(100) / math.log(high / (high - low)), 1)
step_matrix = torch.eye(2, dtype=torch.float64) - precision / torch.linalg.eigvalsh(precision).max()
assert torch.linalg.matrix_norm(torch.linalg.matrix_power(step_matrix, steps_needed), 2) <= 0.01 + 1e-9

# %% [markdown]
# **Exercise 4: what no refinement reaches.** In the linear model, how large is the approximation gap of the factorised guide, in nats per datapoint? *Hint:* exercise 4
# of notebook 1.

# %% tags=["exercise"]
approximation_gap = ...

# %% tags=["solution"]
approximation_gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()

# %% tags=["check"]
check(approximation_gap, 0.5 * (precision[0, 0] * precision[1, 1] / torch.linalg.det(precision)).log().item(), 1e-4)
long = refine(*start, x, steps=300, lr=0.05)
exact = dist.MultivariateNormal(best_mean, precision_matrix=precision)
left = torch.distributions.kl_divergence(dist.MultivariateNormal(long[0], torch.diag_embed(long[1].exp())), exact)
assert torch.allclose(left, torch.full_like(left, approximation_gap), atol=1e-6), "300 steps end elsewhere"

# %% [markdown] tags=["teaching"]
# <details><summary><b>Teaching notes</b></summary>
#
# - *"Refinement always helps the encoder."* It helps the bound. After many steps the exact gradient at the start is nearly zero: the encoder may drift, and its own bound get worse.
# - *"First-order is wrong, so it does not train."* It has a wrong length here, but a useful direction. The package's documentation has a case in which it goes astray.
# - *The order of the three gradients:* many put "exact" first, "since it knows more".
# - *"The two curves do not meet, as the starts differ."* The ELBO of one datapoint may have several optima, so they need not meet; on digits they nearly do.
# - *"Both reach log p(x)."* Only with a family that contains the exact posterior.
# - *Exercise 1:* `refined.detach()` (the encoder is cut off), or `start + refined - start` (nothing is cut).
# - *Exercise 2:* 1/λ_max, which is the step that converges fastest in the stiffest direction; or using the slow direction.
# - *Exercise 3:* one step, "since α = 1/λ_max is Newton's step". It is, in one direction.
# - In the published code the step size is for the *mean* over a batch, here for each datapoint: `lr=1` there with a batch of 32 is 1/32 here.
#
# </details>

# %% [markdown]
# ## References
#
# - C. Cremer, X. Li, D. Duvenaud, [Inference Suboptimality in Variational Autoencoders](https://arxiv.org/abs/1801.03558), ICML 2018.
# - Y. Kim, S. Wiseman, A. C. Miller, D. Sontag, A. M. Rush, [Semi-Amortized Variational Autoencoders](https://arxiv.org/abs/1802.02550), ICML 2018.
