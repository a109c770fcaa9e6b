"""`target-rate`: the correlation of an AR(1) prior that commits a rate, and the rate that a correlation commits."""

import json
import math

import click

from .echo import echo
from .errors import UserError, user_errors


@click.command(
    "target-rate",
    epilog="""\b
Examples:
  skipvae-pyro target-rate --rate 10 --length 28 --channels 8
  skipvae-pyro target-rate --correlation 0.5:0.95 --length 32 --channels 8 --json""",
)
@click.option("--rate", type=float, help="nats for each datapoint: print the correlation that commits them")
@click.option("--correlation", help="number between 0 and 1, or LOW:HIGH over the channels: print what it commits")
@click.option("--length", required=True, type=int, help="steps of the sequence z, such as rows of an image")
@click.option("--channels", required=True, type=int, help="dimensions of each step")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON on stdout")
def target_rate(rate, correlation, length, channels, as_json):
    """Compute the correlation of a delta-VAE's prior that commits a rate, or the rate that a correlation commits.

    The rate KL(q(z|x) || p(z)) of any posterior that is independent over the steps is at least the committed one. The mutual
    information is not committed.
    """
    if (rate is None) == (correlation is None):
        raise UserError("expected --rate NATS or --correlation NUMBER, got " + ("neither" if rate is None else "both"))
    with user_errors():
        found = _committed(rate, correlation, length, channels)
    echo(json.dumps({"schema": 1, **found}) if as_json else _text(found))


def _committed(rate, correlation, length, channels):
    from pyro_skipvae.priors.ar1 import AR1, CEILING, committed_rate, correlation_for, largest_rate
    from pyro_skipvae.runs.correlations import correlations

    values = (
        [correlation_for(rate, length, channels)] * channels if correlation is None else correlations(correlation, channels)
    )
    AR1(length, channels, correlation=values)  # refuses what is no prior
    nats = committed_rate(length, values)
    return {
        "length": length,
        "channels": channels,
        "correlation": values,
        "rate": nats,
        "bits": nats / math.log(2),
        "rate_per_step_and_channel": nats / (length * channels),
        "ceiling_per_step_and_channel": CEILING,
        "largest_rate": largest_rate(length, channels),
    }


def _text(found):
    low, high = min(found["correlation"]), max(found["correlation"])
    return "\n".join(
        [
            f"correlation   {low:.6g}" + ("" if low == high else f" to {high:.6g}, evenly over {found['channels']} channels"),
            f"rate          {found['rate']:.4f} nats, {found['bits']:.4f} bits, for each datapoint",
            f"              {found['rate_per_step_and_channel']:.4f} nats a step and channel "
            f"({found['length']} steps x {found['channels']} channels)",
            f"ceiling       {found['ceiling_per_step_and_channel']:.4f} nats, (ln 2)/2, a step and channel of a long sequence",
            f"              {found['largest_rate']:.4g} nats here, at a correlation of 0.999",
        ]
    )
