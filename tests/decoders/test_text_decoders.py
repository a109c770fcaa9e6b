"""The contract of text decoders and of the text encoder: what a row is, probabilities that sum to 1, gradients, memory."""

import itertools
import math
import subprocess
import sys

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyro_skipvae import VAE
from pyro_skipvae.decoders import DilatedCNNDecoder, LSTMDecoder, TransformerDecoder, text, word_scores
from pyro_skipvae.encoders import LSTMEncoder, NoEncoder, TransformerEncoder
from pyro_skipvae.guides.recurrence import differentiable_recurrence
from pyro_skipvae.objectives import elbo, iwae
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.skip import parameter_count
from pyro_skipvae.text.decoding import beam, greedy, interpolate
from pyro_skipvae.text.vocabulary import BOS, EOS, PAD, UNK
from pyro_skipvae.text.words import is_outcome, row_lengths

V, D, LONGEST = 6, 2, 3
LSTM = dict(max_length=LONGEST, embedding=4, width=5)
CNN = dict(max_length=LONGEST, embedding=4, width=6, layers=3)
TRANSFORMER = dict(max_length=LONGEST, embedding=6, width=8, layers=2, heads=2)
DECODERS = {
    "transformer": lambda **over: TransformerDecoder(V, D, **TRANSFORMER | over),
    "transformer plain": lambda **over: TransformerDecoder(V, D, **TRANSFORMER | dict(skip="none") | over),
    "lstm": lambda **over: LSTMDecoder(V, D, **LSTM | over),
    "lstm plain": lambda **over: LSTMDecoder(V, D, **LSTM | dict(skip="none") | over),
    "lstm 3 layers": lambda **over: LSTMDecoder(V, D, **LSTM | dict(layers=3) | over),
    "lstm 2 layers plain": lambda **over: LSTMDecoder(V, D, **LSTM | dict(layers=2, skip="none") | over),
    "cnn": lambda **over: DilatedCNNDecoder(V, D, **CNN | over),
    "cnn plain": lambda **over: DilatedCNNDecoder(V, D, **CNN | dict(skip="none") | over),
    "cnn kernel 2": lambda **over: DilatedCNNDecoder(V, D, **CNN | dict(kernel=2, skip=[3]) | over),
}


@pytest.fixture(params=DECODERS)
def name(request, float64):
    return request.param


@pytest.fixture
def decoder(name):
    return spread(DECODERS[name]()).eval()


@pytest.fixture
def plain_attention():
    """torch's fused attention has no second derivative; a refinement switches it off by itself."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def spread(decoder):
    """The same with larger weights, so that the words' probabilities differ."""
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8 if isinstance(decoder, LSTMDecoder) else 2)
    return decoder


def all_rows(length=LONGEST):
    return torch.tensor(list(itertools.product(range(V), repeat=length)))


def some_rows(N, longest=LONGEST, vocabulary_size=V):
    """Rows of random lengths, with EOS and padding."""
    x, length = torch.randint(UNK, vocabulary_size, (N, longest)), torch.randint(1, longest + 1, (N, 1))
    places = torch.arange(1, longest + 1)
    return x.masked_fill(places == length, EOS).masked_fill(places > length, PAD)


# What a row is


def test_lengths_count_the_end_but_no_padding():
    x = torch.tensor([[4, 5, EOS, PAD], [EOS, PAD, PAD, PAD], [4, 4, 4, 4], [4, 4, PAD, PAD], [PAD] * 4, [4, EOS, 4, EOS]])
    assert row_lengths(x).tolist() == [3, 1, 4, 2, 0, 2]


@pytest.mark.parametrize(
    ("row", "possible"),
    [
        ([4, 5, EOS, PAD], True),
        ([EOS], True),
        ([4, UNK, 5, 4], True),  # as long as it may be: it need not end
        ([4, 5], False),  # a beginning
        ([4, 5, PAD, PAD], False),
        ([4, EOS, 5, PAD], False),
        ([4, EOS, EOS, PAD], False),
        ([4, BOS, EOS, PAD], False),
        ([4, PAD, EOS, PAD], False),
        ([PAD] * 4, False),
    ],
)
def test_a_text_is_words_then_the_end_then_padding(row, possible):
    assert is_outcome(torch.tensor(row), 4).item() is possible


# The distribution


def test_probabilities_of_all_rows_sum_to_one(decoder):
    x, z = all_rows(), torch.randn(4, D)
    log_prob = decoder(z).log_prob(x[:, None])  # (216, 4)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(4), rtol=0, atol=1e-10)
    assert (log_prob.isfinite().all(1) == is_outcome(x, LONGEST)).all()


def test_padding_and_neighbours_change_nothing(decoder):
    x, z = some_rows(8), torch.randn(8, D)
    each = [decoder(z[i]).log_prob(x[i, : row_lengths(x[i])]) for i in range(8)]
    torch.testing.assert_close(decoder(z).log_prob(x), torch.stack(each), rtol=0, atol=1e-12)


def test_groups_by_length_change_nothing(decoder, monkeypatch):
    x, z = some_rows(150), torch.randn(150, D)
    assert len(text._groups(row_lengths(x))) == 3 and len(text._groups(torch.full((150,), 3))) == 1
    grouped = decoder(z).log_prob(x)
    monkeypatch.setattr(text, "GROUP", 1000)
    torch.testing.assert_close(decoder(z).log_prob(x), grouped, rtol=0, atol=1e-12)


def test_shapes_and_leading_dimensions(decoder):
    z = torch.randn(5, 4, D)
    p = decoder(z)
    assert p.batch_shape == (5, 4) and p.event_shape == (LONGEST,) == decoder.event_shape
    x = p.sample((2,))
    assert x.shape == (2, 5, 4, LONGEST) and x.dtype == torch.int64 and is_outcome(x, LONGEST).all()
    assert p.support.check(x).all() and not p.support.check(x + V).any()
    one = decoder(z[2, 3]).log_prob(x[1, 2, 3])
    torch.testing.assert_close(p.log_prob(x)[1, 2, 3], one, rtol=0, atol=1e-12)
    torch.testing.assert_close(p.expand((2, 5, 4)).log_prob(x), p.log_prob(x), rtol=0, atol=1e-12)


def test_frequencies_of_samples_are_the_probabilities(decoder):
    N, events, z = 20_000, all_rows()[is_outcome(all_rows(), LONGEST)], torch.randn(D)
    place = V ** torch.arange(LONGEST)
    expected = torch.zeros(V**LONGEST).index_put((events @ place,), decoder(z).log_prob(events).exp())
    observed = torch.bincount(decoder(z.expand(N, D)).sample() @ place, minlength=V**LONGEST) / N
    likely = expected > 1e-4
    # chi-square with at most 39 degrees of freedom stays below 95 with probability 1 - 1e-6
    assert len(events) == 40 and (N * (observed - expected) ** 2 / expected)[likely].sum() < 95
    assert observed[~likely].sum() < 0.01


def test_word_by_word_is_the_teacher_forced_pass(name):
    decoder = spread(DECODERS[name](max_length=70)).eval()  # longer than any dilation reaches
    x, z, network = torch.randint(UNK, V, (3, 70)), torch.randn(3, D), decoder.network
    word, memory, total = torch.full((3,), BOS), network.stack.start(z), 0.0
    with torch.no_grad():
        for t in range(70):
            logits, memory = network.next_word(word, z, memory)
            word = x[:, t]
            total = total + logits.log_softmax(-1)[torch.arange(3), word]
        torch.testing.assert_close(decoder(z).log_prob(x), total, rtol=0, atol=1e-10)


def test_a_word_sees_those_before_it_only(decoder):
    x, z, network = torch.tensor([[3, 4, 5]]), torch.randn(1, D), decoder.network
    told = network.by_word(z, LONGEST)
    inputs = network._inputs(x, told).detach().requires_grad_()
    states, _ = network.stack(inputs, told, network.start(z))
    for t in range(LONGEST):
        (sees,) = grad(states[0, t].sum(), inputs, retain_graph=True)
        assert sees[0, : t + 1].any() and not sees[0, t + 1 :].any()


@pytest.mark.parametrize(
    "latent_free",
    [
        lambda: LSTMDecoder(V, 0, **LSTM),
        lambda: DilatedCNNDecoder(V, 0, **CNN),
        lambda: TransformerDecoder(V, 0, **TRANSFORMER),
    ],
)
def test_a_language_model_has_no_latent_variables(float64, latent_free):
    decoder = spread(latent_free()).eval()
    log_prob = decoder(torch.zeros(5, 0)).log_prob(all_rows()[:, None])
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(5), rtol=0, atol=1e-10)
    vae = VAE(StandardNormal(0), decoder, NoEncoder())
    x = some_rows(5)
    torch.testing.assert_close(-elbo(vae.model, vae.guide, x), decoder(torch.zeros(5, 0)).log_prob(x).sum())
    assert decoder(torch.zeros(5, 0)).sample().shape == (5, LONGEST)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((2, LONGEST + 1), 4), "expected rows of at most max_length=3 words, got 4"),
        (torch.tensor([[4, V, EOS]]), "expected word indices from 0 to 5, got 2 to 6"),
        (torch.tensor([[4, -1, EOS]]), "expected word indices from 0 to 5, got -1 to 4"),
    ],
)
def test_rows_of_another_text_are_refused(decoder, x, message):
    with pytest.raises(ValueError, match=message):
        decoder(torch.zeros(1, D)).log_prob(x)


# Skips


@pytest.mark.parametrize("kind", [LSTMDecoder, DilatedCNNDecoder])
def test_skips_add_the_weights_of_the_paper(kind):
    def count(**over):
        return parameter_count(kind(7, 2, embedding=3, width=6, **over))

    plain = count(layers=3, skip="none")
    assert count(layers=1) - count(layers=1, skip="none") == 7 * 2  # V x D: the output alone
    rows = 4 * 6 if kind is LSTMDecoder else 3  # the gates of a layer, or the channels of a block
    assert count(layers=3, skip=[2]) - plain == rows * 2
    assert count(layers=3) - plain == 2 * rows * 2 + 7 * 2
    assert count(layers=3, skip="last") == count(layers=3, skip=[1, "output"]) == plain + 7 * 2


def test_skips_of_a_transformer_join_z_to_its_blocks_and_its_top():
    def count(skip):
        return parameter_count(TransformerDecoder(V, D, **TRANSFORMER | dict(layers=3, skip=skip)))

    plain = count("none")
    assert count([2]) - plain == 3 * 8 * D  # queries, keys and values of 8 units
    assert count(["output"]) - plain == 6 * D
    assert count("all") - plain == 2 * 3 * 8 * D + 6 * D


def test_the_output_of_a_transformer_shares_the_weights_of_its_words():
    network = TransformerDecoder(V, D, **TRANSFORMER).network
    assert network.output.weight is network.embedding.weight
    assert parameter_count(network) == sum(p.numel() for p in {id(p): p for p in network.parameters()}.values())


def test_a_transformer_can_be_differentiated_twice_inside_a_refinement(float64):
    decoder, z, x = spread(TransformerDecoder(V, D, **TRANSFORMER)).eval(), torch.randn(2, D, requires_grad=True), some_rows(2)
    with differentiable_recurrence(torch.device("cpu"), twice=True):
        assert gradgradcheck(lambda z: decoder(z).log_prob(x), z)


def test_parameters_of_the_papers_size():
    # The authors' decoders have 37.2 and 37.9 million, of which 512 V + 1025 V words and, with the skip, 32 V.
    with torch.device("meta"):
        counts = [parameter_count(LSTMDecoder(20_001, 32, skip=skip)) for skip in ("none", "all")]
    assert counts == [37_206_049, 37_206_049 + 20_001 * 32]


@pytest.mark.parametrize("kind", [LSTMDecoder, DilatedCNNDecoder, TransformerDecoder])
@pytest.mark.parametrize("skip", ["first", [1]])
def test_a_skip_where_z_is_already_is_refused(kind, skip):
    with pytest.raises(ValueError, match="besides 1, where z is joined to every word already"):
        kind(V, D, skip=skip)


def test_parameters_of_the_lstms_begin_as_in_the_authors_code():
    for part in (LSTMDecoder(50, 3, embedding=6, width=20), LSTMEncoder(50, 3, embedding=6, width=20)):
        for parameter in part.parameters():
            assert parameter.abs().max() <= 0.1
            assert parameter.numel() < 200 or 0.05 < parameter.std() < 0.065  # 0.1 / sqrt(3) = 0.058


def test_dropout_is_on_the_words_and_on_the_last_states():
    decoder, seen = LSTMDecoder(V, D, max_length=5, embedding=3, width=4, dropout=0.5), []
    decoder.network.dropout.register_forward_hook(lambda module, inputs, _: seen.append(tuple(inputs[0].shape)))
    decoder(torch.zeros(2, D)).log_prob(torch.tensor([[4, 5, EOS, PAD, PAD], [5, EOS, PAD, PAD, PAD]]))
    assert seen == [(2, 3, 3), (5, 4)]  # embeddings of three places, states at five words


def test_z_starts_the_top_lstm_alone():
    stack, z = LSTMDecoder(V, D, layers=3, embedding=3, width=4).network.stack, torch.randn(2, D)
    h, c = stack.start(z)[::2], stack.start(z)[1::2]
    assert torch.equal(h[2], stack.initial(z)) and h[2].any()
    assert not any(part.any() for part in (*h[:2], *c))


# Gradients


def in_pieces_of_two(monkeypatch, kept):
    """Logits of two words at a time; `kept` bytes stay for the backward pass."""
    monkeypatch.setattr(word_scores, "PIECE", 2)
    monkeypatch.setattr(word_scores, "KEPT", kept)


@pytest.mark.parametrize("kept", [2**25, 100])
def test_first_and_second_derivatives(plain_attention, decoder, monkeypatch, kept):
    in_pieces_of_two(monkeypatch, kept)
    x, z = some_rows(3), torch.randn(3, D, requires_grad=True)
    weight = decoder.network.output.weight

    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, z):
            return self.decoder(z).log_prob(x)

    scored = Scored()

    def of(z, weight):
        return torch.func.functional_call(scored, {"decoder.network.output.weight": weight}, (z,))

    assert gradcheck(of, (z, weight), fast_mode=True) and gradgradcheck(of, (z, weight), fast_mode=True)


@pytest.mark.parametrize("kept", [2**25, 100])
def test_pieces_of_logits_change_no_gradient(plain_attention, decoder, monkeypatch, kept):
    x, z = some_rows(4), torch.randn(4, D, requires_grad=True)

    def gradients():
        (first,) = grad(decoder(z).log_prob(x) @ torch.arange(1.0, 5), z, create_graph=True)
        parameters = list(decoder.parameters())
        return first, *grad(first.square().sum(), [z, *parameters], allow_unused=True, materialize_grads=True)

    whole = gradients()
    in_pieces_of_two(monkeypatch, kept)
    for ours, theirs in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_an_impossible_row_leaves_the_gradients_of_others_alone(decoder):
    z, x = torch.randn(2, D), torch.tensor([[4, 5, EOS], [4, PAD, 5]])
    log_prob = decoder(z).log_prob(x)
    expected = grad(decoder(z[:1]).log_prob(x[:1]), decoder.network.output.weight)
    torch.testing.assert_close(grad(log_prob[0], decoder.network.output.weight), expected)
    assert log_prob[1] == -torch.inf


# Training mode


def test_dropout_and_word_dropout_act_in_training_mode_only(name):
    x, z = torch.full((400, LONGEST), 4), torch.zeros(400, D)
    for over, place in (dict(dropout=0.5), 0), (dict(dropout=0.0, word_dropout=0.5), 1):
        decoder = spread(DECODERS[name](**over))
        first = decoder(z).log_prob(torch.tensor([EOS]))
        assert (first.std() > 1e-9) == (place == 0)  # BOS is never dropped
        assert decoder(z).log_prob(x).std() > 1e-9
        decoder.eval()
        assert decoder(z).log_prob(x).std() < 1e-12


def test_a_dropped_word_is_read_as_unknown(name):
    decoder = DECODERS[name](dropout=0.0, word_dropout=1.0)
    x = torch.tensor([[4, 5, EOS]])
    assert decoder.network._previous(x).tolist() == [[BOS, UNK, UNK]]
    decoder.eval()
    assert decoder.network._previous(x).tolist() == [[BOS, 4, 5]]


# Pyro


@pytest.fixture
def vae(decoder):
    return VAE(StandardNormal(D), decoder, LSTMEncoder(V, D, embedding=4, width=5))


@pytest.mark.parametrize("T", [LONGEST - 1, LONGEST])
def test_pyro_reads_the_pair(vae, T):
    x = some_rows(5, longest=T)
    with pyro.validation_enabled():
        bounds = [Trace_ELBO().loss(vae.model, vae.guide, x), Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1)
                  .loss(vae.model, vae.guide, x), iwae(4)(vae.model, vae.guide, x).item()]  # fmt: skip
        draws = Predictive(vae.model, guide=vae.guide, num_samples=2)(x)
        trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(x)
    assert all(math.isfinite(bound) for bound in bounds)
    assert draws["z"].shape[0] == 2 and trace.nodes["x"]["value"].shape == (5, LONGEST)


def test_the_bound_with_many_particles_is_the_log_probability(float64):
    vae = VAE(StandardNormal(D), DECODERS["lstm"](), LSTMEncoder(V, D, embedding=4, width=5)).eval()
    x, z = some_rows(3), torch.randn(20_000, 1, D)
    exact = (vae.decoder(z).log_prob(x).logsumexp(0) - math.log(len(z))).sum()
    torch.testing.assert_close(-iwae(2000)(vae.model, vae.guide, x), exact, rtol=0, atol=0.05)


# Decoding


def test_a_beam_of_width_one_is_greedy(decoder):
    z = torch.randn(20, D)
    assert beam(decoder, z, width=1).equal(greedy(decoder, z))


def test_a_full_beam_finds_the_most_probable_text(decoder):
    x, z = all_rows(), torch.randn(20, D)
    best = x[decoder(z).log_prob(x[:, None]).argmax(0)]
    assert beam(decoder, z, width=V**LONGEST).equal(best)
    narrow = decoder(z).log_prob(beam(decoder, z, width=3)) - decoder(z).log_prob(best)
    assert (narrow <= 1e-12).all() and narrow.isfinite().all()


def test_greedy_takes_the_most_probable_word_each_time(decoder):
    z = torch.randn(6, D)
    x = greedy(decoder, z)
    assert is_outcome(x, LONGEST).all()
    for i in range(6):
        memory = decoder.network.stack.start(z[i : i + 1])
        logits, _ = decoder.network.next_word(torch.tensor([BOS]), z[i : i + 1], memory)
        assert x[i, 0] == logits[0].argmax()


def test_a_beam_narrower_than_one_is_refused(decoder):
    with pytest.raises(ValueError, match="expected a beam of at least 1, got width=0"):
        beam(decoder, torch.zeros(1, D), width=0)


def test_interpolation_is_a_straight_line_with_both_ends():
    a, b = torch.randn(4, D), torch.randn(4, D)
    line = interpolate(a, b, 5)
    assert line.shape == (5, 4, D) and line[0].equal(a) and line[-1].equal(b)
    torch.testing.assert_close(line[2], (a + b) / 2)


# The encoder


def test_padding_and_words_after_the_end_are_seen_by_no_place_of_a_transformer(float64):
    encoder = TransformerEncoder(V, D, embedding=4, width=8, heads=2, layers=2).eval()
    x = some_rows(6)
    padded = encoder(torch.nn.functional.pad(x, (0, 3)))
    for i, row in enumerate(x):
        alone = encoder(row[None, : row_lengths(row)])
        torch.testing.assert_close(padded.mean[i], alone.mean[0], rtol=0, atol=1e-12)
    assert encoder(torch.full((2, 3), PAD)).mean.isfinite().all()


def test_every_word_of_a_text_reaches_the_transformers_posterior(float64):
    encoder, x = TransformerEncoder(V, D, embedding=4, width=8, heads=2, layers=2).eval(), torch.tensor([[4, 5, 4, EOS]])
    for place in range(3):
        assert not torch.allclose(encoder(x).mean, encoder(x.index_fill(1, torch.tensor([place]), UNK)).mean)


def test_the_encoder_reads_its_state_at_the_end_of_the_text(float64):
    encoder = LSTMEncoder(V, D, embedding=4, width=5)
    x = torch.tensor([[4, 5, EOS, PAD], [EOS, PAD, PAD, PAD], [4, 4, 5, 5], [4, 4, PAD, PAD]])
    for i, row in enumerate(x):
        alone = encoder(row[None, : row_lengths(row)])
        padded = encoder(torch.nn.functional.pad(x, (0, 3)))
        torch.testing.assert_close(padded.mean[i], alone.mean[0], rtol=0, atol=1e-12)
        states, _ = encoder.network(encoder.embedding(row[None, : row_lengths(row)]))
        torch.testing.assert_close(encoder.posterior(states[:, -1]).mean, alone.mean, rtol=0, atol=1e-12)


# Memory

MEMORY = """
import resource, torch
from pyro_skipvae.decoders import LSTMDecoder
decoder = LSTMDecoder(20_000, 4, embedding=8, width=32)
x, z = torch.randint(4, 20_000, (16, 200)), torch.randn(16, 4)
for parameter in decoder.parameters():
    parameter.grad = parameter.detach().clone()  # zeros would not be resident yet
decoder(z).log_prob(x[:, :2]).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoder(z).log_prob(x).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_the_logits_of_long_texts_are_never_all_in_memory():
    # All logits are 244 MiB, and at once they take 730; a piece is 32 MiB, and up to seven of its size live at a time.
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 400


def test_the_order_of_words_matters_to_transformers():
    torch.manual_seed(0)
    x = torch.tensor([[4, 5, 6, EOS], [5, 4, 6, EOS]])
    encoder = TransformerEncoder(9, 2, embedding=4, width=8, heads=2, layers=2).eval()
    one, other = encoder(x).mean
    assert not torch.allclose(one, other)


def test_a_dilated_stack_sees_as_far_as_it_says():
    torch.manual_seed(0)
    decoder = DilatedCNNDecoder(9, 2, max_length=80, layers=5, embedding=4, width=6, kernel=3, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.7)
        for block in decoder.network.stack.blocks:  # so that no relu is closed
            block.narrow.bias.fill_(3.0)
            block.dilated.bias.fill_(3.0)
    network, x, z = decoder.network, torch.randint(3, 9, (1, 80)), torch.zeros(1, 2).double()
    told = network.by_word(z, 80)
    inputs = network._inputs(network._previous(x), told).detach().requires_grad_()
    states, _ = network.stack(inputs, told, network.stack.start(z))
    (gradient,) = torch.autograd.grad(states[0, -1].sum(), inputs)
    assert gradient[0].any(-1).sum() == 1 + 31 * 2
