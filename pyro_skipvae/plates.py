"""Plates of Pyro that stand for more points than they hold."""

import math


def stands_for(site):
    """How many points each row of a site stands for: N/B where a plate of N holds B of them, else 1."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.full_size is not None)
    return math.prod(frame.full_size / frame.size for frame in frames)
