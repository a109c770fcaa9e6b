# %% [markdown]
# # 3. Skips: z in every layer of the decoder
#
# A deep decoder sees z only in its first layer. Each layer may bring the outputs of different z nearer to each other, so the deeper the decoder, the less z
# shows in x. A *generative skip model* (Dieng, Kim, Rush and Blei 2019) feeds z to every layer. That is all it changes.
#
# You will write a skip decoder, see what depth does to z before any training, train both kinds at four depths, and ask what a reviewer would ask: do the
# skips help, or only the parameters that they add?
#
# *You need:* notebooks 1 and 2. *Time:* 90 minutes. *It runs for* about two minutes.

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
import statistics

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot
from torch import nn

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.diagnostics import rate
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import analytic_elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reports.figures import PALETTE, STYLE
from pyro_skipvae.skip import SkipSequential, parameter_count, parameter_matched
from pyro_skipvae.training import he_normal_

SMOKE = "NOTEBOOK_SMOKE" in os.environ  # set by the tests: fewer steps, and no claims about trained models
pyplot.rcParams.update(STYLE | {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
torch.set_flush_denormal(True)  # gradients that vanish become tiny numbers, with which a CPU is slow


def check(answer, truth, tolerance):
    """Compare an answer of yours with the truth."""
    assert answer is not ... and answer is not None, "replace the ... by your answer"
    assert abs(answer - truth) <= tolerance, f"{answer:.4g} is not it; look at the hint, and at what you left out"
    print("right")


# %% [markdown]
# ## The skip function
#
# A layer of the plain decoder is $h_{l+1} = \mathrm{relu}(W_l h_l + b_l)$. The skip function $g_W$ adds z, through a second matrix $U_l$:
#
# $$h_{l+1} = g_W(h_l, z) = \mathrm{relu}(W_l h_l + U_l z + b_l), \qquad \eta = W h_L + U z + b.$$
#
# The output layer adds z too, without the nonlinearity; here its η are the logits of the pixels. *(Dieng et al. 2019, section 3.)* As a module:


# %%
class SkipDecoder(nn.Module):
    """p(x|z) for binary x (8, 8), with z in every layer."""

    def __init__(self, D, width, layers):
        super().__init__()
        sizes = [D, *[width] * layers, 64]
        self.W = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes, sizes[1:], strict=False))
        self.U = nn.ModuleList(nn.Linear(D, after, bias=False) for after in sizes[1:])

    def logits(self, z):
        h = z
        for place, (W, U) in enumerate(zip(self.W, self.U, strict=True)):
            h = W(h) + U(z)
            if place < len(self.W) - 1:
                h = torch.relu(h)
        return h

    def forward(self, z):
        return dist.Bernoulli(logits=self.logits(z).unflatten(-1, (8, 8))).to_event(2)


# %% [markdown]
# The package has such decoders. `MLPDecoder(latent_dim, shape of x, layers, width, skip)` is one; `skip` says where z enters again: `"all"`, `"none"`,
# `"first"`, `"last"` (the output), or a list such as `[2, "output"]`.

# %%
D, WIDTH = 20, 64
plain = MLPDecoder(D, (8, 8), layers=6, width=WIDTH, skip="none")
skip = MLPDecoder(D, (8, 8), layers=6, width=WIDTH, skip="all")
print(f"plain {parameter_count(plain):,} parameters, skip {parameter_count(skip):,}, by hand {parameter_count(SkipDecoder(D, WIDTH, 6)):,}")

# %% tags=["claim"]
assert parameter_count(skip) == parameter_count(SkipDecoder(D, WIDTH, 6)) > parameter_count(plain)

# %% [markdown]
# ## Before any training
#
# `he_normal_` draws the weights with the variance 2 / (number of inputs), the usual initialisation for relu *(He et al. 2015)*.
#
# > **Predict before you run.** Take networks with random weights and draw many z. How much do the logits vary with z, as a share of their mean square? How
# > does that share change from 1 to 9 layers, without skips and with them?


# %%
@torch.no_grad()
def share_that_depends_on_z(layers, skip, networks=10 if SMOKE else 50):
    """Variance of the logits over z divided by their mean square, averaged over random networks."""
    found = []
    for seed in range(networks):
        torch.manual_seed(seed)
        decoder = MLPDecoder(D, (8, 8), layers=layers, width=WIDTH, skip=skip)
        he_normal_(decoder)
        logits = decoder.network(torch.randn(500, D))
        found.append((logits.var(0).mean() / logits.square().mean()).item())
    return statistics.mean(found)


DEPTHS = (1, 3) if SMOKE else (1, 3, 6, 9)
at_start = {skip: [share_that_depends_on_z(layers, skip) for layers in DEPTHS] for skip in ("none", "all")}
figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
for skip, colour, label in (("none", PALETTE[1], "plain"), ("all", PALETTE[0], "skip")):
    axes.plot(DEPTHS, at_start[skip], "o-", color=colour, lw=2)
    axes.annotate(label, (DEPTHS[-1], at_start[skip][-1]), (8, 0), textcoords="offset points", color=colour, va="center")
axes.set(xlabel="hidden layers", ylabel="share of the logits that depends on z", ylim=(0, 1), xticks=DEPTHS, title="Random networks, before training")
pyplot.show()

# %% tags=["claim"]
assert SMOKE or (at_start["none"][0] > 0.6 and at_start["none"][-1] < 0.25 and min(at_start["all"]) > 0.5)

# %% [markdown]
# **Result:** in a plain network of nine layers less than a quarter of the logits depends on z; with skips more than half does, at every depth.
#
# He's initialisation keeps the *size* of the signals at every depth, but not the *differences* between them: each relu layer brings two inputs closer
# together *(Poole et al. 2016)*. Two z that give almost the same output cannot help the decoder, so the encoder has no reason to keep them apart.
#
# ## KL against depth
#
# `VAE(prior, decoder, encoder)` makes `vae.model` and `vae.guide`, a pair as in notebook 1. `fit` runs the epochs of training. `rate` is the KL of notebook 2,
# averaged over test images.
#
# > **Predict before you run.** Now both are trained on 8x8 digits, with the same encoder, at 1, 3, 6 and 9 layers, two seeds each. A third arm is plain but
# > *wider*, so that it has as many parameters as the skip decoder. Sketch KL(q(z|x) || p(z)) against depth for the three arms.

# %%
data = load_data("digits")


def plain_with_the_parameters_of_skip(layers):
    """A plain decoder, widened to the number of parameters of the skip decoder."""
    target = parameter_count(MLPDecoder(D, (8, 8), layers=layers, width=WIDTH, skip="all"))
    width = parameter_matched(lambda width: MLPDecoder(D, (8, 8), layers=layers, width=width, skip="none"), target)
    return MLPDecoder(D, (8, 8), layers=layers, width=width, skip="none")


ARMS = {
    "plain": lambda layers: MLPDecoder(D, (8, 8), layers=layers, width=WIDTH, skip="none"),
    "plain, as many parameters": plain_with_the_parameters_of_skip,
    "skip": lambda layers: MLPDecoder(D, (8, 8), layers=layers, width=WIDTH, skip="all"),
}


def train(make_decoder, layers, seed, epochs=1 if SMOKE else 40):
    """A trained VAE with that decoder."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    vae = VAE(StandardNormal(D), make_decoder(layers), MLPEncoder((8, 8), D, hidden=(128,)))
    he_normal_(vae.decoder)
    step = svi_step(vae.model, vae.guide, analytic_elbo, pyro.optim.Adam({"lr": 2e-3, "fused": True}), max_norm=5.0)
    with pyro.validation_enabled(False):  # without the checks of each distribution a step is a fifth faster
        for _ in fit(step, data.batches("train", 64, seed=seed), epochs=epochs):
            pass
    return vae


SEEDS = range(1 if SMOKE else 2)
trained = {(arm, L, seed): train(make, L, seed) for arm, make in ARMS.items() for L in DEPTHS for seed in SEEDS}
kl = {key: rate(vae.model, vae.guide, data.test).value for key, vae in trained.items()}


def mean_kl(arm, layers):
    return statistics.mean(kl[arm, layers, seed] for seed in SEEDS)


# %%
figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
for arm, colour, style in (("skip", PALETTE[0], "-"), ("plain", PALETTE[1], "-"), ("plain, as many parameters", PALETTE[4], "--")):
    axes.plot(DEPTHS, [mean_kl(arm, L) for L in DEPTHS], style, color=colour, lw=2.5, label=arm)
    for L in DEPTHS:
        axes.plot([L] * len(SEEDS), [kl[arm, L, seed] for seed in SEEDS], "o", color=colour, ms=5, mec="white", mew=0.6)
axes.set(xlabel="hidden layers of the decoder", ylabel="KL(q(z|x) || p(z)) in nats", ylim=(0, None), xticks=DEPTHS)
axes.set_title("With depth the plain decoder lets go of z; with skips it does not")
axes.legend(loc="center right", bbox_to_anchor=(1, 0.62))
pyplot.show()

# %% tags=["claim"]
assert SMOKE or all(kl["skip", L, s] > 4 for L in DEPTHS for s in SEEDS)
assert SMOKE or all(kl[arm, L, s] < 2 for arm in ("plain", "plain, as many parameters") for L in (6, 9) for s in SEEDS)
assert SMOKE or all(kl["skip", L, s] > kl["plain, as many parameters", L, t] for L in DEPTHS[1:] for s in SEEDS for t in SEEDS)

# %% [markdown]
# **Result:** with skips the KL stays above 4 nats at every depth; plain decoders of six and nine layers end below 2 nats, the widened ones too. Each dot is a
# seed, lines join the means.
#
# So here it is not the number of parameters. A reviewer would add three cautions. The KL is not the same as information (notebook 4). The data are small and trained on
# for 40 epochs only: longer training, another initialisation or a KL warm-up moves the curves. And a high KL is no aim in itself: look at the ELBO too.

# %%
for layers in (DEPTHS[0], DEPTHS[-1]):
    for arm in ("plain", "skip"):
        vae = trained[arm, layers, 0]
        report = collapse_report(vae.model, vae.guide, data.test, importance_samples=50)
        print(f"hidden layers: {layers}, {arm}: ELBO {report.elbo:.2f}. {report.verdict}\n")

# %% [markdown]
# ## Where must z enter?
#
# > **Predict before you run.** With six layers, let z enter again only at the first layer, only at the output, or everywhere. Which of these keeps the KL up?

# %%
PLACES, L = ("none", "first", "last", "all"), DEPTHS[-2]


def with_skips_at(place):
    return lambda layers: MLPDecoder(D, (8, 8), layers=layers, width=WIDTH, skip=place)


placed = {}
for place in PLACES:
    known = {"none": "plain", "all": "skip"}.get(place)
    vaes = [trained[known, L, seed] if known else train(with_skips_at(place), L, seed) for seed in SEEDS]
    placed[place] = [rate(vae.model, vae.guide, data.test).value for vae in vaes]
    print(f"z again at {place:5}: KL " + ", ".join(f"{value:.2f}" for value in placed[place]) + " nats (one number a seed)")

# %% tags=["claim"]
assert SMOKE or (max(placed["first"] + placed["none"]) < 2 and min(placed["last"] + placed["all"]) > 3)

# %% [markdown]
# **Result:** in both seeds, z at the output alone keeps the KL above 3 nats; with z at the first layer alone it is below 2 nats. Exercise 3 says why.
#
# The same was found on MNIST ([this package's reproduction of Table 3](../../../docs/reproduction.md)): most of the effect comes from the last entry. The paper
# did not test this.
#
# ## Exercises
#
# **Exercise 1: count.** How many parameters do the skips add to a decoder with D latent dimensions, L hidden layers of width H and E outputs? (The U have
# no biases.)


# %% tags=["exercise"]
def added_parameters(D, L, H, E):
    return ...


# %% tags=["solution"]
def added_parameters(D, L, H, E):
    return D * (L * H + E)


# %% tags=["check"]
for D_, L_, H_ in ((20, 6, 64), (2, 1, 10)):
    two = [parameter_count(MLPDecoder(D_, (8, 8), layers=L_, width=H_, skip=skip)) for skip in ("none", "all")]
    check(added_parameters(D_, L_, H_, 64), two[1] - two[0], 0)

# %% [markdown]
# **Exercise 2: make any decoder a skip decoder.** `upward` is a convolutional decoder. Turn it into its skip counterpart. Then say at how many places a
# matrix U adds z. *Hint:* `SkipSequential(network, latent_dim)`; activations and reshapes do not count as layers.

# %%
upward = nn.Sequential(
    nn.Linear(D, 128), nn.ReLU(), nn.Unflatten(1, (32, 2, 2)), nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU(),
    nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
)  # fmt: skip

# %% tags=["exercise"]
upward_with_skips, places = ..., ...

# %% tags=["solution"]
upward_with_skips = SkipSequential(upward, D)
places = len(upward_with_skips.entry_at)  # layers 1 and 2, and the output

# %% tags=["check"]
check(places, 3, 0)
assert isinstance(upward_with_skips, nn.Module), "replace the ... by your network"
z = torch.randn(5, D)
with torch.no_grad():
    assert upward_with_skips(z).shape == upward(z).shape == (5, 1, 8, 8)
    assert not torch.allclose(upward_with_skips(z), upward(z)), "z does not enter again"
    upward_with_skips.skips.stacked.weight.zero_()
    torch.testing.assert_close(upward_with_skips(z), upward(z))  # with U = 0 it is the plain decoder
print("right")

# %% [markdown]
# **Exercise 3: a skip that adds nothing.** z enters the first layer anyway. From `W` (H, D) and `U` (H, D), write the weight W' of a plain decoder that
# computes the same function as one with a skip at layer 1 only. Does `skip="first"` add anything to what a decoder can express?


# %% tags=["exercise"]
def merged(W, U):
    return ...


# %% tags=["solution"]
def merged(W, U):
    return W + U  # W z + U z = (W + U) z: another parametrisation of the same functions


# %% tags=["check"]
first = MLPDecoder(D, (8, 8), layers=2, width=WIDTH, skip="first")
same = MLPDecoder(D, (8, 8), layers=2, width=WIDTH, skip="none")
same.load_state_dict({name: value for name, value in first.state_dict().items() if "skips" not in name})
with torch.no_grad():
    weight = merged(same.network.network[0].weight, first.network.skips.stacked.weight)
    assert weight is not ... and weight is not None, "replace the ... by your answer"
    z = torch.randn(5, D)
    same.network.network[0].weight.copy_(weight)
    torch.testing.assert_close(same.network(z), first.network(z))
print("right")

# %% [markdown]
# **Exercise 4: a fair comparison.** A colleague says: "skips win because they have more parameters". Which width gives a plain decoder of six layers (D = 20, 64
# outputs) as many parameters as the skip decoder of width 64? *Hint:* `parameter_matched`, or solve a quadratic equation.

# %% tags=["exercise"]
fair_width = ...

# %% tags=["solution"]
target = parameter_count(MLPDecoder(D, (8, 8), layers=6, width=WIDTH, skip="all"))
fair_width = parameter_matched(lambda width: MLPDecoder(D, (8, 8), layers=6, width=width, skip="none"), target)

# %% tags=["check"]
# (20 + 1) w + 5 (w + 1) w + (w + 1) 64 = 26,304 + 20 (6 * 64 + 64), to the nearest whole number
check(fair_width, (-90 + (90**2 + 20 * (26_304 + 8_960 - 64)) ** 0.5) / 10, 0.5)

# %% [markdown] tags=["teaching"]
# <details><summary><b>Teaching notes</b></summary>
#
# - *First prediction:* many expect He's start to cure depth. It keeps the variance of each signal, not the difference between two signals.
# - *"The widened arm lies in the middle."* It lies with the plain one. Width does not stop contraction; a path around it does.
# - *"Skips everywhere are needed."* The output alone does most of it. Ask what an output skip can express by itself: a linear decoder with a
#   logistic output. What is then the use of the deep part?
# - *"More KL is better."* No: compare the ELBOs that are printed. A model without any z can have the better likelihood where its decoder is
#   autoregressive. Notebook 4 has a model with a high KL that says nothing.
# - *Exercise 1:* L + 1 times D H, forgetting that the output has E rows; or D (L - 1) H + ..., leaving out layer 1.
# - *Exercise 3:* "then `first` and `none` train alike". The functions are the same; the parametrisation, and so the path of training, is not.
# - *Exercise 4:* 64 plus something linear. Parameters of hidden layers grow with the square of the width, so a few units are enough.
# - The paper's Theorem 1 says that skips never lower the information. That is false for single networks and true on average: notebook 7, or
#   [theorem 1, put to the test](../../../docs/theorem1.md).
#
# </details>

# %% [markdown]
# ## References
#
# - A. B. Dieng, Y. Kim, A. M. Rush, D. M. Blei, [Avoiding Latent Variable Collapse with Generative Skip Models](https://arxiv.org/abs/1807.04863),
#   AISTATS 2019.
# - K. He, X. Zhang, S. Ren, J. Sun, [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852), ICCV 2015.
# - B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, [Exponential expressivity in deep neural networks through transient
#   chaos](https://arxiv.org/abs/1606.05340), NeurIPS 2016.
