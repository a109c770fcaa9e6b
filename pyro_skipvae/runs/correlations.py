"""The correlations of an AR(1) prior as one writes them: a number, or LOW:HIGH, evenly over the channels."""

EXPECTED = "expected --correlation as a number between 0 and 1, or LOW:HIGH, evenly over the channels"


def correlation_range(text: str) -> tuple[float, float]:
    """(low, high) of a number or LOW:HIGH. Raises ValueError for anything else, or what is not between 0 and 1."""
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        raise ValueError(f"{EXPECTED}, got {text!r}") from None
    if len(ends) > 2 or not all(0 < end < 1 for end in ends):
        raise ValueError(f"{EXPECTED}, got {text!r}")
    return ends[0], ends[-1]


def correlations(text: str, channels: int) -> list[float]:
    """The correlation of each channel."""
    from pyro_skipvae.priors.ar1 import evenly_spaced  # settings are read before torch is

    return evenly_spaced(*correlation_range(text), channels)
