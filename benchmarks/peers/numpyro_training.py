"""An epoch of NumPyro's SVI on the same net, with the loop over batches jitted, as its VAE example has it; one thread."""

import importlib.util
import os

import numpy as np

from . import INSTALL

MISSING = {} if importlib.util.find_spec("numpyro") else {"NumPyro": INSTALL}


def epoch(vae, images, batch):
    """() -> the mean loss of a pass over the images, from the weights of `vae`: Trace_ELBO, Adam."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import numpyro
    from jax import lax
    from jax import numpy as jnp

    encoder, decoder = _encoder(vae), _decoder(vae)
    data, size = jnp.asarray(images.flatten(1).numpy()), images[0].numel()
    count = len(data) // batch

    def model(x):
        weights = numpyro.param("decoder", decoder)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", numpyro.distributions.Normal(0, 1).expand([50]).to_event(1))
            numpyro.sample("x", numpyro.distributions.Bernoulli(logits=_decoded(weights, z)).to_event(1), obs=x)

    def guide(x):
        weights = numpyro.param("encoder", encoder)
        with numpyro.plate("data", len(x)):
            loc, log_variance = jnp.split(_encoded(weights, x), 2, -1)
            numpyro.sample("z", numpyro.distributions.Normal(loc, jnp.exp(log_variance / 2)).to_event(1))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), numpyro.infer.Trace_ELBO())

    @jax.jit
    def passed(state, key):
        order = jax.random.permutation(key, len(data))[: count * batch].reshape(count, batch)

        def step(number, carried):
            total, state = carried
            state, loss = svi.update(state, data[order[number]].reshape(batch, size))
            return total + loss, state

        return lax.fori_loop(0, count, step, (0.0, state))

    now = {"state": svi.init(jax.random.PRNGKey(0), data[:batch]), "key": jax.random.PRNGKey(1)}

    def run():
        now["key"], key = jax.random.split(now["key"])
        total, now["state"] = passed(now["state"], key)
        return float(total) / (count * batch)

    return run


def _encoder(vae):
    from torch import nn

    layers = [layer for layer in vae.encoder.network if isinstance(layer, nn.Linear)]
    return [_linear(layer) for layer in [*layers, vae.encoder.posterior.parameters_of]]


def _encoded(weights, x):
    from jax import nn

    for w, b in weights[:-1]:
        x = nn.relu(x @ w + b)
    return x @ weights[-1][0] + weights[-1][1]


def _decoder(vae):
    """(layers, all U_l side by side) of a decoder with all skips."""
    from torch import nn

    network = vae.decoder.network
    layers = [_linear(layer) for layer in network.network if isinstance(layer, nn.Linear)]
    return layers, np.asarray(network.skips.stacked.weight.detach().T)


def _decoded(weights, z):
    from jax import nn
    from jax import numpy as jnp

    layers, stacked = weights
    ends = np.cumsum([len(b) for _, b in layers])[:-1]
    maps = jnp.split(z @ stacked, ends, -1)
    h = z
    for (w, b), u in zip(layers[:-1], maps[:-1], strict=True):
        h = nn.relu(h @ w + u + b)
    return h @ layers[-1][0] + maps[-1] + layers[-1][1]


def _linear(layer):
    return np.asarray(layer.weight.detach().T), np.asarray(layer.bias.detach())
