"""A training step of the LSTM text VAE: its parts, the same with one cross-entropy on all logits, and its peak memory.

    python benchmarks/text.py [ptb|mid|paper|memory...]     # prints; one thread, CPU time, best of rounds in alternating order

`paper` is a step of the paper's size (V 20,000, embedding 512, LSTM 1024, batch 32) on texts of 80 words, in two minutes;
`memory` one on texts of 200 words: the resident memory that it takes beyond parameters and gradients, in one.
"""

import resource
import sys
import time

import torch
from torch.nn import functional as F

from pyro_skipvae import VAE
from pyro_skipvae.decoders import LSTMDecoder
from pyro_skipvae.decoders.word_scores import word_scores
from pyro_skipvae.encoders import LSTMEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

SIZES = {  # vocabulary, embedding, LSTM, words a text
    "ptb": (5_000, 128, 128, 21),
    "mid": (5_000, 128, 256, 80),
    "paper": (20_000, 512, 1024, 80),
    "memory": (20_000, 512, 1024, 200),
}


def pair(vocabulary_size, embedding, width, T):
    sizes = dict(embedding=embedding, width=width)
    decoder = LSTMDecoder(vocabulary_size, 32, max_length=T, **sizes)
    return VAE(StandardNormal(32), decoder, LSTMEncoder(vocabulary_size, 32, **sizes)), torch.randint(
        4, vocabulary_size, (32, T)
    )


def ways(vae, x):
    """The step, the same on all logits at once, and the step's parts."""
    network, z = vae.decoder.network, torch.randn(len(x), 32)

    def states():
        told = network.by_word(z, x.shape[1])
        return network.stack(network._inputs(network._previous(x), told), told, network.start(z))[0]

    features = network._joined(states().detach().flatten(0, 1), z.repeat_interleave(x.shape[1], 0)).requires_grad_()

    def all_logits():
        q = vae.encoder(x)
        joined = network._joined(network.dropout(states()).flatten(0, 1), q.rsample().repeat_interleave(x.shape[1], 0))
        return F.cross_entropy(network._logits(joined), x.flatten(), reduction="sum")

    return {
        "step": lambda: elbo(vae.model, vae.guide, x),
        "step by hand, all logits": all_logits,
        "encoder": lambda: vae.encoder(x).mean.sum(),
        "decoder's LSTM": lambda: states().sum(),
        "output in pieces": lambda: -word_scores(
            features, network.output.weight, network.output.bias + network.impossible, x.flatten()
        ).sum(),
        "output, all logits": lambda: F.cross_entropy(network._logits(features), x.flatten(), reduction="sum"),
    }


def times(name, rounds=6):
    vae, x = pair(*SIZES[name])
    timed = ways(vae, x)
    best = dict.fromkeys(timed, float("inf"))
    for number in range(rounds):
        for what, loss in sorted(timed.items(), reverse=number % 2):
            vae.zero_grad()
            start = time.process_time()
            loss().backward()
            best[what] = min(best[what], time.process_time() - start)
    for what, seconds in best.items():
        print(f"{name:8s} {what:28s} {seconds * 1e3:9.1f} ms  {seconds / best['step']:6.2f} of a step")


def memory(name):
    vae, x = pair(*SIZES[name])
    for parameter in vae.parameters():
        parameter.grad = parameter.detach().clone()  # zeros would not be resident before they are written
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elbo(vae.model, vae.guide, x).backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name:8s} {(peak - before) / 2**20:.2f} GiB beyond parameters and gradients")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or SIZES:
        (memory if name == "memory" else times)(name)
