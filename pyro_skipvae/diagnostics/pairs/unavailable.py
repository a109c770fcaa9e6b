"""Pairs and estimates that are refused, each with its reason."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

# What a model, a guide or a distribution of others may raise where it cannot do what is asked of it.
FAILURES = (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError)
LONGEST = 300
Found = TypeVar("Found")
# What torch says of values and parameters, before it shows them in full.
OUTSIDE = re.compile(r"Expected value argument .* to be within the support .* of the distribution (\w+)", re.DOTALL)
ADVICE = {
    "Bernoulli": ", which is 0 and 1: binarise x, or take a likelihood of grey values; for the cross-entropy of grey values "
    "give the Bernoulli validate_args=False"
}
INVALID = re.compile(r"Expected parameter (\w+) .* of distribution (\w+).* to satisfy the constraint", re.DOTALL)


class Refused(ValueError):
    """A model and guide without numbers per datapoint; no estimate is made of such a pair."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence.partition("Trace Shapes:")[0].rstrip())  # Pyro adds those to what is raised in a trace


class Unavailable(ValueError):
    """An estimate that this model and guide do not admit; the text is the reason, as printed in the card."""


def attempt(
    reasons: dict[str, str], names: str | tuple[str, ...], estimate: Callable[..., Found], *args: Any, **options: Any
) -> Found | None:
    """The estimate, or None with its reason noted under its name, or names, where it fails; a refused pair raises."""
    try:
        return estimate(*args, **options)
    except Refused:
        raise
    except FAILURES as error:
        reasons |= dict.fromkeys((names,) if isinstance(names, str) else names, told(error))
        return None


def told(error: Exception) -> str:
    """What an error says, in one line: tensors that it shows are left out."""
    if isinstance(error, Unavailable):
        return str(error)
    text = str(error).partition("Trace Shapes:")[0].strip()
    if found := OUTSIDE.match(text):
        return f"a value lies outside the support of {found[1]}{ADVICE.get(found[1], '')}"
    if found := INVALID.match(text):
        return f"the {found[1]} of {found[2]} is not valid"
    line = next(iter(text.splitlines()), "").rstrip(":., ")[:LONGEST]
    return line if line and isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {line}"
