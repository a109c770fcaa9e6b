"""Sequences z through encoders and decoders: what each step sees, and what it reaches."""

import pyro
import pytest
import torch
from torch.autograd import grad

from pyro_skipvae import VAE, collapse_report, svi_step
from pyro_skipvae.decoders import (
    ConvolutionalDecoder,
    DilatedCNNDecoder,
    LSTMDecoder,
    MLPDecoder,
    PixelCNNDecoder,
    TransformerDecoder,
)
from pyro_skipvae.encoders import LSTMSequenceEncoder, MLPEncoder, PixelCNNEncoder, ResNetEncoder
from pyro_skipvae.guides import FullCovarianceNormal, InverseAutoregressiveFlow
from pyro_skipvae.objectives import analytic_elbo
from pyro_skipvae.priors import AR1
from pyro_skipvae.text.decoding import beam, greedy
from pyro_skipvae.text.vocabulary import EOS, UNK

T, C = 4, 3
V, LONGEST = 9, 7
SMALL = {"embedding": 4, "width": 5}
SEES = {  # rows of x, or words, that step t of a sequence is allowed to see
    "anti-causal": lambda step, place: place >= step,
    "causal": lambda step, place: place <= step,
    "full": lambda step, place: True,
}


def spread(module):
    """Parameters large enough that what is seen is seen."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.mark.parametrize("direction", SEES)
@pytest.mark.parametrize(("shape", "rows"), [((4, 4), 1), ((2, 8, 3), 2)])
def test_which_rows_an_image_encoder_sees(shape, rows, direction, float64):
    encoder = spread(PixelCNNEncoder(shape, (T, C), layers=2 * rows, maps=3, kernel=5, direction=direction))
    x = torch.rand(1, *shape)
    before = encoder(x).mean
    assert before.shape == (1, T, C)
    for row in range(shape[-2]):
        for column in (0, shape[-1] - 1):
            other = x.clone()
            other[..., row, column] += 1
            moved = (encoder(other).mean != before).any(-1)[0].tolist()
            assert moved == [SEES[direction](step, row // rows) for step in range(T)], (row, column)


@pytest.mark.parametrize("direction", SEES)
@pytest.mark.parametrize("steps", [7, 4, 1])
def test_which_words_a_text_encoder_sees(steps, direction, float64):
    encoder = spread(LSTMSequenceEncoder(V, (steps, C), max_length=LONGEST, **SMALL, direction=direction))
    each = -(-LONGEST // steps)
    x = torch.randint(UNK, V - 1, (1, LONGEST))
    before = encoder(x).mean
    for word in range(LONGEST):
        other = x.clone()
        other[0, word] = V - 1
        moved = (encoder(other).mean != before).any(-1)[0].tolist()
        assert moved == [SEES[direction](step, word // each) for step in range(steps)], word


@pytest.mark.parametrize("direction", SEES)
def test_padding_changes_nothing_for_a_text_encoder(direction, float64):
    encoder = spread(LSTMSequenceEncoder(V, (4, C), max_length=LONGEST, **SMALL, direction=direction))
    x = torch.tensor([[5, 6, EOS, 0, 0], [5, 6, 7, 4, EOS]])
    together = encoder(x).mean
    torch.testing.assert_close(together[:1], encoder(x[:1, :3]).mean)
    torch.testing.assert_close(together, encoder(torch.nn.functional.pad(x, (0, 2))).mean)


@pytest.mark.parametrize("skip", ["all", "none", [2, "output"], "first"])
@pytest.mark.parametrize(("shape", "rows"), [((4, 4), 1), ((2, 8, 3), 2)])
def test_a_row_sees_its_own_step_and_those_before(shape, rows, skip, float64):
    decoder = spread(PixelCNNDecoder((T, C), shape, layers=2 * rows, maps=3, kernel=5, skip=skip))
    x, z = torch.rand(1, *shape).round(), torch.randn(1, T, C, requires_grad=True)
    eta = decoder.natural_parameters(x, z)
    for row in range(shape[-2]):
        (sees,) = grad(eta[0, :, row].square().sum(), z, retain_graph=True)
        assert sees.any(-1)[0].tolist() == [step <= row // rows for step in range(T)], row


def transformer(*shapes, width, **flags):
    return TransformerDecoder(*shapes, width=4, heads=2, **flags)


@pytest.mark.parametrize("skip", ["all", "none"])
@pytest.mark.parametrize("make", [LSTMDecoder, DilatedCNNDecoder, transformer])
@pytest.mark.parametrize("steps", [7, 4])
def test_a_word_sees_its_own_step_and_those_before(steps, make, skip, float64):
    decoder = spread(make(V, (steps, C), max_length=LONGEST, layers=2, **SMALL, skip=skip))
    each, x = -(-LONGEST // steps), torch.randint(UNK, V, (1, LONGEST))
    z = torch.randn(1, steps, C)
    before = conditionals(decoder, x, z)
    for step in range(steps):
        other = z.clone()
        other[0, step] += 1
        moved = (conditionals(decoder, x, other) != before).any(-1)[0].tolist()
        first = step * each
        assert not any(moved[:first]) and all(moved[first : first + each])  # a convolution forgets later on


def conditionals(decoder, x, z):
    """log p(x_t | x_<t, z) of all words, (N, T, V), word by word, which is the teacher-forced pass (tested here too)."""
    network = decoder.network
    word, memory, scores = torch.full((len(x),), 1), network.start(z), []
    with torch.no_grad():
        for t in range(x.shape[1]):
            logits, memory = network.next_word(word, network.latent_at(z, t), memory)
            word = x[:, t]
            scores.append(logits.log_softmax(-1))
        scores = torch.stack(scores, 1)
        torch.testing.assert_close(scores.gather(2, x[..., None]).sum((1, 2)), decoder(z).log_prob(x))
    return scores.nan_to_num(neginf=0.0)


@pytest.mark.parametrize(
    "make", [lambda **flags: MLPDecoder((T, C), (2, 2), **flags), lambda **flags: PixelCNNDecoder((2, C), (2, 2), **flags)]
)
@pytest.mark.parametrize("skip", ["all", "none"])
def test_probabilities_of_all_images_sum_to_1(make, skip, float64):
    decoder = spread(make(layers=2, skip=skip))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 2, 2)
    z = torch.randn(3, 1, *decoder.latent_shape)
    torch.testing.assert_close(decoder(z).log_prob(every).exp().sum(1), torch.ones(3))


def test_sampling_with_a_cache_is_the_full_pass(float64):
    decoder = spread(PixelCNNDecoder((T, C), (2, 8, 5), layers=3, maps=4))
    z = torch.randn(6, T, C)
    with torch.no_grad():
        x, eta = decoder.generate(z)
        torch.testing.assert_close(eta, decoder.natural_parameters(x, z))


@pytest.mark.parametrize(
    "decoder",
    [
        MLPDecoder((T, C), (8, 9), layers=1, width=4),
        ConvolutionalDecoder((T, C), (8, 9), layers=1, maps=4),
        PixelCNNDecoder((T, C), (8, 9), layers=1, maps=4),
        LSTMDecoder(V, (T, C), max_length=LONGEST, **SMALL),
    ],
    ids=lambda decoder: type(decoder).__name__,
)
def test_decoders_keep_the_batch_of_z(decoder):
    p = decoder.eval()(torch.randn(2, 3, T, C))
    assert p.batch_shape == (2, 3) and p.sample().shape == (2, 3, *p.event_shape)
    assert p.log_prob(p.sample()).shape == (2, 3) and p.expand((4, 2, 3)).sample().shape == (4, 2, 3, *p.event_shape)


def test_the_best_text_of_a_sequence():
    decoder = spread(LSTMDecoder(V, (4, C), max_length=LONGEST, **SMALL))
    z = torch.randn(5, 4, C)
    assert beam(decoder, z, width=1).equal(greedy(decoder, z))
    with torch.no_grad():
        p = decoder(z)
        assert (p.log_prob(beam(decoder, z, width=6)) >= p.log_prob(greedy(decoder, z)) - 1e-5).all()


ENCODERS = {
    "pixelcnn": lambda: PixelCNNEncoder((8, 9), (T, C), layers=2, maps=4),
    "mlp": lambda: MLPEncoder((8, 9), (T, C), hidden=(5,)),
    "resnet": lambda: ResNetEncoder((8, 9), (T, C), maps=4),
    "lstm": lambda: LSTMSequenceEncoder(V, (T, C), max_length=LONGEST, **SMALL),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_pair_with_a_sequence_trains_and_reports(name):
    text = name == "lstm"
    x = torch.randint(UNK, V, (40, LONGEST)) if text else torch.rand(40, 8, 9).round()
    decoder = LSTMDecoder(V, (T, C), max_length=LONGEST, **SMALL) if text else PixelCNNDecoder((T, C), (8, 9), layers=1, maps=4)
    vae = VAE(AR1(T, C, correlation=0.7), decoder, ENCODERS[name]())
    q = vae.encoder(x)
    assert q.batch_shape == (40,) and q.event_shape == (T, C)
    step = svi_step(vae.model, vae.guide, analytic_elbo, pyro.optim.Adam({"lr": 1e-2}))
    step(x)
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    report = collapse_report(vae.model, vae.guide, x, importance_samples=3, posterior_samples=2)
    assert report.rate >= vae.prior.committed_rate() - 1e-4 and report.card["latent_shape"] == [T, C]
    assert report.card["estimators"]["rate"] == "closed form" and report.mi_lower and report.mi_upper and report.mi_marginal


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PixelCNNEncoder((8, 9), (3, C)), "8 rows can be divided evenly, got 3; possible are 2, 4 and 8"),
        (lambda: PixelCNNDecoder((3, C), (8, 9)), "8 rows can be divided evenly, got 3"),
        (
            lambda: LSTMDecoder(V, (6, C), max_length=7),
            "7 words can be divided evenly, got 6; possible are 3, 4 and 7",
        ),
        (lambda: LSTMSequenceEncoder(V, (8, C), max_length=7), "7 words can be divided evenly, got 8"),
        (lambda: PixelCNNEncoder((8, 9), 3), r"latent_dim as \(steps, channels\), got 3"),
        (lambda: PixelCNNEncoder((8, 9), (T, C), direction="both"), "one of anti-causal, causal, full, got 'both'"),
        (lambda: MLPDecoder((1, 2, 3), (8, 9)), r"a number of dimensions, or \(steps, channels\), got \(1, 2, 3\)"),
        (lambda: MLPEncoder((8, 9), (T, C), posterior=FullCovarianceNormal), "use DiagonalNormal"),
        (lambda: MLPEncoder((8, 9), (T, C), posterior=InverseAutoregressiveFlow), "use DiagonalNormal"),
        (lambda: LSTMSequenceEncoder(V, (T, C), max_length=4, **SMALL)(torch.full((1, 5), 4)), "max_length=4 words, got 5"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
