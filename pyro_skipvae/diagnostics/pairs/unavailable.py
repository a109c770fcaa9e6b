"""Pairs and estimates that are refused, each with its reason."""


class Refused(ValueError):
    """A model and guide without numbers per datapoint; no estimate is made of such a pair."""


class Unavailable(ValueError):
    """An estimate that this model and guide do not admit; the text is the reason, as printed in the card."""


def attempt(reasons: dict[str, str], name: str, estimate, *args, **options):
    """The estimate, or None with its reason noted under `name` where it is unavailable."""
    try:
        return estimate(*args, **options)
    except Unavailable as reason:
        reasons[name] = str(reason)
        return None
