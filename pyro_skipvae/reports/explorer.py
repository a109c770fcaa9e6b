"""A page to play with: sliders over the most used dimensions of z, and the mean of p(x|z) at each place of a grid."""

import base64
import itertools
import json

import numpy as np
import torch
from pyro.distributions import constraints

from pyro_skipvae.distributions.wrapped import innermost_support
from pyro_skipvae.priors import UniformCategorical
from pyro_skipvae.text import generation as texts
from pyro_skipvae.text.decoding import on_support

from . import figures
from .model_pictures import DECODED, as_grey, mean_of, mean_or_sample, place, prior_moments, start_of
from .rendering import render

LARGEST = 2**24  # numbers of a page: 16 MB of images
MOST_COLUMNS = 100  # of a table
WIDTH = 2.5  # standard deviations of the prior, to each side


def explorer_page(vae, about, *, name, data=None, rates=None, dimensions=3, steps=9, item=0, seed=0):
    """The page as HTML. `about` describes the data, of which test item `item` is the start (without `data`, a draw of z).

    Every dimension that has no slider keeps the value of the start. Raises ValueError for codes, a grid that is too large
    for a page, or a table of too many columns.
    """
    if steps < 2:
        raise ValueError(f"expected at least 2 steps of a slider, got {steps}")
    prior = vae.prior()
    if isinstance(vae.prior, UniformCategorical):
        raise ValueError("expected latent variables that can be moved by sliders, got codes")
    start, ranked, by = start_of(vae, data, rates, item, seed)
    moved = ranked.argsort(descending=True, stable=True)[:dimensions].tolist()
    kind = "text" if about.kind == "text" else "image" if figures.can_draw(about.event_shape) else "table"
    _check_size(kind, about.event_shape, steps ** len(moved))
    mean, deviation = prior_moments(prior, start.device, seed)
    values = torch.linspace(-WIDTH, WIDTH, steps, dtype=start.dtype, device=start.device)
    places = torch.tensor(list(itertools.product(range(steps), repeat=len(moved))), device=start.device)
    z = start.repeat(len(places), 1)
    z[:, moved] = mean[moved] + deviation[moved] * values[places]
    sliders = [
        {
            "label": f"z {place(d, prior.event_shape)}",
            "rate": round(ranked[d].item(), 3),
            "start": _nearest(start, mean, deviation, d, values),
        }
        for d in moved
    ]
    shown = _shown(vae, about, on_support(vae.prior, z.unflatten(-1, prior.event_shape)), kind, seed)
    told = {
        "ranked": "variance of the posterior mean" if by == "variance" else by,
        "kind": kind,
        "columns": list(getattr(about, "columns", ())),
        "sphere": innermost_support(prior.support) is constraints.sphere,
        "steps": steps,
        "values": [round(v, 2) for v in values.tolist()],
        "sliders": sliders,
        **shown,
    }
    return render(
        "explorer.html.j2",
        name=name,
        told=told,
        content=json.dumps(told).replace("<", "\\u003c"),
        is_start=data is not None,
        item=item,
    )


def _nearest(start, mean, deviation, dimension, values):
    at = (start[dimension] - mean[dimension]) / deviation[dimension]
    return int((values - at).abs().argmin())


def _check_size(kind, shape, places):
    if kind == "table" and (len(shape) != 1 or shape[0] > MOST_COLUMNS):
        raise ValueError(
            f"expected images, texts, or tables of at most {MOST_COLUMNS} columns to explore, got items of shape {shape}"
        )
    numbers = places * (1 if kind == "text" else int(np.prod(shape)))
    if numbers > LARGEST or places > 10_000:
        raise ValueError(f"expected a grid that a page can hold, got {places:,} places; lower --dimensions or --steps")


@torch.no_grad()
def _shown(vae, about, z, kind, seed):
    if kind == "text":
        return {"texts": texts.decoded(vae, about.vocabulary, z)}
    found = torch.cat([mean_or_sample(vae.decoder, part, seed) for part in z.split(DECODED)])
    drawn = mean_of(vae.decoder(z[:1])) is None
    if kind == "table":
        return {"rows": [[float(f"{v:.4g}") for v in row] for row in found.tolist()], "drawn": drawn}
    grey = (torch.as_tensor(as_grey(found, about.kind)).clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = about.event_shape[-2:]
    colours = about.event_shape[0] if len(about.event_shape) == 3 else 1
    pixels = grey.reshape(len(z), colours, height, width).permute(0, 2, 3, 1).contiguous().numpy()
    packed = base64.b64encode(pixels.tobytes()).decode()
    return {"pixels": packed, "height": height, "width": width, "colours": colours, "drawn": drawn}
