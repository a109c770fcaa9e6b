"""Mean and standard deviation of a posterior."""


def posterior_moments(q, *, draws=100):
    """Mean and standard deviation of q(z|x), each (B, D); of draws where the family has neither in closed form."""
    try:
        return q.mean, q.stddev
    except NotImplementedError:
        z = q.sample((draws,))
        return z.mean(0), z.std(0)
