"""Which part of x a step of a sequence z is read from."""

DIRECTIONS = ("anti-causal", "causal", "full")


def readings(direction: str) -> tuple[bool, ...]:
    """Whether each of the networks of an encoder reads x in reverse: z_t then sees x from its own place on.

    anti-causal: from step t on, which is what a decoder that knows the past lacks; causal: up to step t; full: both.
    Raises ValueError for another direction. Reference: Razavi et al. 2019.
    """
    found = {"anti-causal": (True,), "causal": (False,), "full": (False, True)}
    if direction not in found:
        raise ValueError(f"expected direction to be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    return found[direction]
