"""A bag of words and the mutual divergence of posteriors beside the ELBO: value and gradient by hand, and what is trained."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from test_free_bits import KL, B, D, Known, X
from torch.nn import functional as F

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder
from pyro_skipvae.guides.semi_amortized import beside, own_elbo
from pyro_skipvae.objectives import (
    BagOfWords,
    aggregate,
    analytic_elbo,
    autoencoder,
    elbo,
    free_bits_total,
    mmd,
    mutual_divergence,
)
from pyro_skipvae.priors import StandardNormal, VampPrior

FIT = (X.double().square() / 2 + math.log(2 * math.pi) / 2).sum()
WORDS = torch.tensor([[5, 6, 5, 2], [4, 2, 0, 0], [7, 6, 4, 2]])  # 10 words, and padding
VOCABULARY = 9


# With unit scales the KL of two rows is half their squared distance.
#   loc_d: 0 2 4 -> 2 8 2, mean 4;   0 0 2 -> 0 2 2, mean 4/3;   sums of the pairs: 2 10 4, each twice
@pytest.mark.parametrize(("diversity", "smoothness"), [(1.0, 0.0), (2.0, 0.0), (0.0, 1.0), (0.5, 3.0)])
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_the_mutual_divergence_has_the_value_and_gradient_of_its_formula(diversity, smoothness, beta, float64):
    loc = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 2.0]], dtype=torch.float64)
    pair = Known(loc.clone())
    loss = mutual_divergence(diversity, smoothness)(pair.model, pair.guide, X.double(), beta)
    means = torch.tensor([4.0, 4 / 3], dtype=torch.float64)
    deviation = math.sqrt(2 * ((10 / 3) ** 2 + (14 / 3) ** 2 + (4 / 3) ** 2) / 5)
    cost = diversity * F.softplus(-means).sum() + smoothness * deviation
    torch.testing.assert_close(loss, FIT + beta * loc.square().sum() / 2 + B * cost)
    loss.backward()
    apart = B * loc - loc.sum(0)  # sum_y loc_x - loc_y
    of_sums = torch.tensor([[-10 / 3, 14 / 3, 0], [-10 / 3, 0, -4 / 3], [0, 14 / 3, -4 / 3]], dtype=torch.float64)
    pairs = [[1, 2, 0], [0, 0, 2], [0, 0, 1]]  # the other row of 2, 10 and 4
    drawn = [sum(of_sums[x, n] * (loc[x] - loc[pairs[x][n]]) for n in range(3)) for x in range(3)]
    expected = beta * loc - B * diversity * torch.sigmoid(-means) * apart / 3
    expected = expected + B * smoothness * 2 * torch.stack(drawn) / (5 * deviation)
    torch.testing.assert_close(pair.loc.grad, expected)


def test_equal_posteriors_cost_ln_2_a_dimension_and_have_a_finite_gradient(float64):
    pair = Known(torch.ones(B, D))
    loss = mutual_divergence(1.0, 1.0)(pair.model, pair.guide, X.double())
    torch.testing.assert_close(loss, FIT + B * D / 2 + B * D * math.log(2))
    loss.backward()
    torch.testing.assert_close(pair.loc.grad, torch.ones(B, D))


class Inside(Known):
    """The pair of `Known` with a plate for the dimensions, so that z is (D, B), as Pyro lays it out."""

    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            with pyro.plate("dimensions", D), pyro.poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)), pyro.plate("dimensions", D), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(self.loc.T, 1.0))


def test_the_rows_are_those_of_the_data_plate_wherever_it_lies(float64, monkeypatch):
    loc = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 2.0]], dtype=torch.float64)
    expected, found = (mutual_divergence(0.5, 3.0)(pair.model, pair.guide, X.double()) for pair in (Known(loc), Inside(loc)))
    torch.testing.assert_close(found, expected)
    seen = []
    monkeypatch.setattr(aggregate, "squared_mmd", lambda z, other, width: seen.extend([z.shape, other.shape]) or z.sum())
    pair = Inside(loc)
    loss = mmd(2.0)(pair.model, pair.guide, X.double())
    assert seen == [(B, D)] * 2
    loss.backward()
    assert pair.loc.grad.eq(2 * B).all()  # each z counts once, times the weight and the rows


def test_a_prior_with_parameters_of_the_encoder_is_refused_where_it_would_be_fitted():
    encoder = MLPEncoder((3,), 2, hidden=(4,))
    vae = VAE(VampPrior(encoder, torch.rand(3, 3)), MLPDecoder(2, (3,), layers=1, width=4), encoder)
    x = torch.rand(5, 3).round()
    for objective in (autoencoder, mmd(10.0)):
        with pytest.raises(ValueError, match="without parameters of the encoder"):
            objective(vae.model, vae.guide, x)
    assert mmd(10.0, 0.0)(vae.model, vae.guide, x).isfinite()  # it has the whole KL term


@pytest.mark.parametrize("objective", [elbo, autoencoder, mmd(1.0), mutual_divergence(1.0), free_bits_total(1.0)])
def test_a_second_argument_beside_x_is_refused(objective):
    pair = Known(torch.ones(B, D))
    with pytest.raises(ValueError, match="as a tuple"):
        objective(pair.model, pair.guide, X, torch.ones(B))


def test_without_weights_the_mutual_divergence_is_the_negative_elbo(float64):
    pair = Known((2 * torch.tensor(KL, dtype=torch.float64)).sqrt())
    found = [objective(pair.model, pair.guide, X.double(), 0.7) for objective in (mutual_divergence(0.0), analytic_elbo)]
    torch.testing.assert_close(*found)


class Texts(Known):
    """The pair of `Known`, with words that do not depend on z either."""

    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Categorical(logits=torch.zeros(VOCABULARY)).expand([x.shape[1]]).to_event(1), obs=x)


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_a_bag_of_words_adds_the_loss_of_every_word_but_padding(beta, float64):
    pair, objective = Texts(torch.randn(B, D)), BagOfWords(D, VOCABULARY, weight=0.5, width=3)
    pyro.set_rng_seed(0)
    loss = objective(pair.model, pair.guide, WORDS, beta)
    pyro.set_rng_seed(0)
    z = pyro.poutine.trace(pair.guide).get_trace(WORDS).nodes["z"]["value"]
    first, _, second = objective.words
    logits = torch.tanh(z @ first.weight.T + first.bias) @ second.weight.T + second.bias
    told = sum(logits[row].log_softmax(-1)[word] for row in range(B) for word in WORDS[row].tolist() if word)
    rest = WORDS.numel() * math.log(VOCABULARY) + beta * pair.loc.square().sum() / 2
    torch.testing.assert_close(loss, rest - 0.5 * told)
    (expected,) = torch.autograd.grad(rest - 0.5 * told, pair.loc, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(pair.loc.grad, expected)
    assert (pair.loc.grad - beta * pair.loc).abs().min() > 1e-6  # z is told to say the words


def test_words_that_nothing_tells_apart_cost_ln_of_the_vocabulary(float64):
    pair, objective = Texts(torch.zeros(B, D)), BagOfWords(D, VOCABULARY, weight=2.0)
    torch.nn.init.zeros_(objective.words[-1].weight)
    torch.nn.init.zeros_(objective.words[-1].bias)
    loss = objective(pair.model, pair.guide, WORDS)
    torch.testing.assert_close(loss, torch.tensor((WORDS.numel() + 2.0 * 10) * math.log(VOCABULARY)))


def text_step(**options):
    pyro.clear_param_store()
    torch.manual_seed(0)
    sizes = {"embedding": 4, "width": 8}
    vae = VAE(StandardNormal(2), LSTMDecoder(VOCABULARY, 2, max_length=4, **sizes), LSTMEncoder(VOCABULARY, 2, **sizes))
    objective = BagOfWords(2, VOCABULARY, width=5)
    return vae, svi_step(vae.model, vae.guide, objective, pyro.optim.Adam({"lr": 0.01, "fused": True}), **options)


def test_svi_alone_trains_the_network_of_a_bag_of_words():
    vae, step = text_step()
    objective, before = step.objective, step.objective.words[0].weight.clone()
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective).step(WORDS)
    assert not torch.equal(objective.words[0].weight, before)


def test_a_step_trains_the_parameters_of_its_objective_and_keeps_them_in_its_state():
    vae, step = text_step()
    before = {name: value.clone() for name, value in step.auxiliary.state_dict().items()}
    step(WORDS)
    assert all(not torch.equal(before[name], value) for name, value in step.auxiliary.state_dict().items())
    saved = step.state_dict()
    state = {name: value.clone() for name, value in saved["objective"].items()}
    other = text_step()[1]
    other.load_state_dict({**saved, "objective": state})
    assert all(torch.equal(state[name], value) for name, value in other.auxiliary.state_dict().items())
    plain = svi_step(vae.model, vae.guide, elbo, pyro.optim.Adam({"lr": 1e-3}))
    assert "objective" not in plain.state_dict()
    with pytest.raises(ValueError, match="a step with an objective that is a module, got one without"):
        other.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="a step without an objective that is a module, got one with"):
        plain.load_state_dict(saved)
    assert plain.steps == 0


def test_training_makes_z_tell_the_words():
    """Four texts, each three times a word of its own: 6.4 nats of words and end mark without z, 2.2 with the text known."""
    words = torch.tensor([[4, 4, 4, 2], [5, 5, 5, 2], [6, 6, 6, 2], [7, 7, 7, 2]]).repeat(4, 1)
    vae, step = text_step()
    for _ in range(300):
        step(words)
    vae.eval()
    untold = [sum(f(vae.model, vae.guide, words) for _ in range(20)) for f in (step.objective, analytic_elbo)]
    assert 2.2 < (untold[0] - untold[1]).item() / 20 / len(words) < 4.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BagOfWords(2, 9, weight=0.0), "expected a weight above 0 for the bag of words, got 0.0"),
        (lambda: BagOfWords(2, 9, weight=math.nan), "expected a weight above 0"),
        (lambda: BagOfWords(2, 9, width=0), "width to be .* at least 1, got 0"),
        (lambda: BagOfWords(2, 0), "vocabulary_size to be .* at least 1, got 0"),
        (lambda: BagOfWords(2, 9, padding_idx=9), "a padding_idx from 0 to 8, got 9"),
        (lambda: beside(own_elbo, BagOfWords(2, 9)), "without parameters beside an encoder's loss, got BagOfWords"),
        (lambda: mutual_divergence(-1.0), "expected a diversity of at least 0, got -1.0"),
        (lambda: mutual_divergence(1.0, math.inf), "expected a smoothness of at least 0, got inf"),
    ],
)
def test_weights_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("latent_size", "x", "said"),
    [
        (D, WORDS.double(), "x of whole numbers .* torch.float64"),
        (D, WORDS[:, 0], r"the words of 3 rows, for a bag of words, got \(3,\)"),
        (D, WORDS.repeat(2, 1), r"the words of 3 rows, for a bag of words, got \(6, 4\)"),
        (D + 1, WORDS, "z of 3 elements for this bag of words, got 2"),
    ],
)
def test_a_bag_of_words_says_what_it_is_not_for(latent_size, x, said):
    pair = Texts(torch.zeros(B, D))
    with pytest.raises(ValueError, match=said):
        BagOfWords(latent_size, VOCABULARY)(lambda x: pair.model(WORDS), lambda x: pair.guide(WORDS), x)


@pytest.mark.parametrize("objective", [BagOfWords(1, VOCABULARY, width=3), mutual_divergence(1.0, 1.0)])
def test_one_number_for_z_is_a_z_of_one_dimension(objective):
    def pair_of(*event):
        def model(x):
            with pyro.plate("data", B):
                pyro.sample("z", dist.Normal(torch.zeros(event), 1.0).to_event(len(event)))
                pyro.sample("x", dist.Categorical(torch.ones(VOCABULARY)).expand([x.shape[1]]).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", B):
                pyro.sample("z", dist.Normal(torch.arange(3.0).reshape(B, *event), 1.0).to_event(len(event)))

        return model, guide

    found = []
    for pair in (pair_of(), pair_of(1)):
        pyro.set_rng_seed(0)
        found.append(objective(*pair, WORDS))
    torch.testing.assert_close(*found)


def test_a_batch_of_one_row_and_dependent_dimensions_have_no_mutual_divergence():
    pair = Known(torch.ones(1, D))
    with pytest.raises(ValueError, match="expected at least 2 rows in a batch for a mutual divergence, got 1"):
        mutual_divergence(1.0)(pair.model, pair.guide, X[:1])

    def guide(x, beta=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(D), torch.eye(D)))

    with pytest.raises(ValueError, match="expected independent normals"):
        mutual_divergence(1.0)(pair.model, guide, X)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--dataset", "digits", "--objective", "bag-of-words"), "expected text for --objective bag-of-words, got"),
        (("--dataset", "pydoc", "--objective", "bag-of-words(0)"), "a WEIGHT above 0"),
        (("--dataset", "pydoc", "--objective", "bag-of-words", "--model", "lm"), "which has no z"),
        (("--dataset", "pydoc", "--objective", "bag-of-words", "--model", "sa-vae"), "expected --objective elbo"),
        (("--objective", "mutual-divergence", "--guide", "planar-flow"), "a guide of independent normals"),
        (("--dataset", "digits", "--objective", "mutual-divergence(1,2,3)"), "unknown objective"),
        (("--dataset", "digits", "--objective", "mutual-divergence(0)"), "with one of the two above 0"),
        (
            ("--dataset", "digits", "--objective", "mutual-divergence", "--limit-train", "101", "--batch-size", "50"),
            "use --batch-size 51",
        ),
        (("--dataset", "digits", "--objective", "mmd", "--limit-train", "7", "--batch-size", "2"), "use --batch-size 4"),
        (("--dataset", "digits", "--objective", "mutual-divergence", "--limit-train", "1"), "use more items"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(flags, said, tmp_path):
    done = skipvae("train", *flags, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
