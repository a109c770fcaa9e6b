"""The verdict: is it collapsed, in one sentence."""

import math

DECODER_USES_Z = 0.1  # nats per datapoint: less than this lost by shuffling z, or said by z of x, counts as nothing


def verdict(*, active: int | None, dimensions: int, loss: float, error: float, information: float | None = None) -> str:
    """One sentence from the active units (0.01), the decoder's loss in nats when z is shuffled, and I(x; z) at most.

    The decoder uses z where the loss exceeds 0.1 nats and 1.96 standard errors (`error`). Where it exceeds 0.1 nats alone, is
    no number, or is less than 0 by as much, the sentence says so. Else:
        it uses z, every unit is active                     not collapsed
        it uses z, some units are active                    partly collapsed
        it uses z, no unit is active                        not collapsed: z varies on a scale below the threshold
        it does not, no unit is active                      collapsed
        it does not, z says less than 0.1 nats of x         collapsed (`information`, an upper bound, None: unknown)
        it does not, the units vary                         collapsed on the decoder's side
    Where the units cannot be counted (`active` is None) it says "not collapsed" of any z in use.
    """
    if dimensions == 0:
        return "The model has no latent variables: there is nothing to collapse."
    units = "Active units unknown" if active is None else f"{active} of {dimensions} units active"
    found = f"{units}; the decoder loses {loss:.{1 if loss >= 1 else 2}f} nats when z is shuffled"
    if math.isnan(loss):
        return f"{units}; what the decoder loses when z is shuffled is no number: it cannot be told."
    if DECODER_USES_Z < loss <= 1.96 * error:
        return f"{found}, which these points do not tell from 0: undecided."
    if loss < -DECODER_USES_Z and -loss > 1.96 * error:
        return f"{found}: it does better with the z of other points, so the encoder does not fit it."
    if loss > DECODER_USES_Z and not loss <= 1.96 * error:  # an infinite loss has no error
        if active == 0:
            return f"{found}: not collapsed, z varies on a scale below the threshold of active units."
        return f"{found}: {'not' if active in (None, dimensions) else 'partly'} collapsed."
    if active == 0:
        return f"{found}: collapsed."
    if information is not None and information < DECODER_USES_Z:
        return f"{found}; z says less than {DECODER_USES_Z} nats of x: collapsed."
    if active is None:
        return f"{found}: the decoder ignores z: collapsed."
    return f"{found}: the units vary but the decoder ignores z: collapsed on the decoder's side."
