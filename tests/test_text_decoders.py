"""The contract of text decoders and of the text encoder: what a row is, probabilities that sum to 1, and gradients."""

import itertools

import pytest
import torch

from pyro_skipvae.decoders import LSTMDecoder
from pyro_skipvae.distributions.text import is_outcome

V, D, LONGEST = 6, 2, 3
SIZES = dict(max_length=LONGEST, embedding=4, width=5)
DECODERS = {
    "lstm": lambda **over: LSTMDecoder(V, D, **SIZES | over),
    "lstm plain": lambda **over: LSTMDecoder(V, D, **SIZES | dict(skip="none") | over),
    "lstm 3 layers": lambda **over: LSTMDecoder(V, D, **SIZES | dict(layers=3) | over),
    "lstm 2 layers plain": lambda **over: LSTMDecoder(V, D, **SIZES | dict(layers=2, skip="none") | over),
}


@pytest.fixture(params=DECODERS)
def decoder(request, float64):
    return spread(DECODERS[request.param]()).eval()


def spread(decoder):
    """The same with larger weights, so that the words' probabilities differ."""
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8)
    return decoder


def all_rows(length=LONGEST):
    return torch.tensor(list(itertools.product(range(V), repeat=length)))


def test_probabilities_of_all_rows_sum_to_one(decoder):
    x, z = all_rows(), torch.randn(4, D)
    log_prob = decoder(z).log_prob(x[:, None])  # (216, 4)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(4), rtol=0, atol=1e-10)
    assert (log_prob.isfinite().all(1) == is_outcome(x, LONGEST)).all()
