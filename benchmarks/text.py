"""A training step of the LSTM text VAE: its parts, the same with one cross-entropy on all logits, and its peak memory.

    python benchmarks/text.py [ptb|mid|paper|memory...]     # prints; one thread, CPU time, best of rounds in alternating order

`paper` is a step of the paper's size (V 20,000, embedding 512, LSTM 1024, batch 32) on texts of 80 words, in two minutes;
`memory` one on texts of 200 words: the resident memory that it takes beyond parameters and gradients, in one.
"""

import resource
import sys
import time

import torch
from baselines import authors_text
from interleaved import Comparison
from steps import medium, under
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_skipvae import VAE
from pyro_skipvae.data.length_bucketed import LengthBucketed
from pyro_skipvae.decoders import LSTMDecoder
from pyro_skipvae.decoders.word_scores import word_scores
from pyro_skipvae.encoders import LSTMEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

SIZES = {  # vocabulary, embedding, LSTM, words a text
    "small": (50, 8, 8, 6),
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


def step(small):
    """A step of LSTMs of 256 units, vocabulary 5,000, 32 texts of 80 words: ours; all logits at once, or a loop over words."""
    vae, x = pair(*SIZES["small" if small else "mid"])
    losses = {name: ways(vae, x)[name] for name in ("step", "step by hand, all logits", "step by hand, loop over words")}

    def backward(loss):
        vae.zero_grad()
        loss().backward()

    runs = {name: lambda loss=loss: backward(loss) for name, loss in losses.items()}
    return Comparison({**runs, "step, medium": under(medium, runs["step"])}, rounds=5)


def logits_memory(small):
    """The largest tensor with a score for each word, in MiB, in the output layer forward and backward: ours, all at once."""
    vae, x = pair(*SIZES["small" if small else "mid"])
    parts, found = ways(vae, x), {}
    for name in ("output in pieces", "output, all logits"):
        with Largest(vae.decoder.network.output.out_features) as largest:
            parts[name]().backward()
        found[name] = [largest.bytes / 2**20]
    return found


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor whose last axis has `width` numbers and that is no weight, of what torch computes."""

    def __init__(self, width):
        super().__init__()
        self.width, self.bytes = width, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        found = operator(*args, **(kwargs or {}))
        for part in tree_leaves(found):
            if isinstance(part, torch.Tensor) and part.ndim > 1 and part.shape[-1] == self.width:
                self.bytes = max(self.bytes, part.nbytes)
        return found


def padding(small):
    """The part of the places of an epoch that are padding: 20,000 texts of log-normal lengths, 20 to 200, in batches of 32."""
    count = 2_000 if small else 20_000
    generator = torch.Generator().manual_seed(0)
    lengths = (4.25 + 0.5 * torch.randn(count, generator=generator)).exp().round().clamp(20, 200).long()
    rows = torch.where(torch.arange(200) < lengths[:, None], 4, 0)
    found = {"bucketed": [], "unsorted": []}
    for seed in range(5):
        read = sum(x.numel() for x in LengthBucketed(rows, 32, seed=seed, shuffle=True))
        order = torch.randperm(count, generator=generator)
        whole = sum(len(part) * int(part.max()) for part in lengths[order].split(32))
        for name, places in (("bucketed", read), ("unsorted", whole)):
            found[name].append(1 - int(lengths.sum()) / places)
    return found


def ways(vae, x):
    """The step, the same on all logits at once, with a loop over the words, and the step's parts."""
    network, z = vae.decoder.network, torch.randn(len(x), 32)

    def states():
        told = network.by_word(z, x.shape[1])
        return network.stack(network._inputs(network._previous(x), told), told, network.start(z))[0]

    features = network._joined(states().detach().flatten(0, 1), z.repeat_interleave(x.shape[1], 0)).requires_grad_()

    def logits_and_rate():
        q, prior = vae.encoder(x), vae.prior()
        z = q.rsample()
        joined = network._joined(network.dropout(states()).flatten(0, 1), z.repeat_interleave(x.shape[1], 0))
        return network._logits(joined), (q.log_prob(z) - prior.log_prob(z)).sum()

    def all_logits():
        logits, rate = logits_and_rate()
        return F.cross_entropy(logits, x.flatten(), reduction="sum") + rate

    def loop_over_words():
        logits, rate = logits_and_rate()
        return authors_text.cross_entropy(logits.unflatten(0, x.shape), x) + rate

    return {
        "step": lambda: elbo(vae.model, vae.guide, x),
        "step by hand, all logits": all_logits,
        "step by hand, loop over words": loop_over_words,
        "encoder": lambda: vae.encoder(x).mean.sum(),
        "decoder's LSTM": lambda: states().sum(),
        "output in pieces": lambda: (
            -word_scores(features, network.output.weight, network.output.bias + network.impossible, x.flatten()).sum()
        ),
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
