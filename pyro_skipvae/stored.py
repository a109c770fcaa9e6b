"""What is read back from JSON: whether it has the shape of what was written."""

import json
from types import NoneType

NUMBER = (int, float, NoneType)  # what was not finite is null
INTERVAL = ({"value": NUMBER, "low": NUMBER, "high": NUMBER}, NoneType)


def loads(text):
    """The plain values of a JSON text; NaN and Infinity, which are no JSON, raise ValueError as other mistakes do."""
    return json.loads(text, parse_constant=_refuse)


def check(value, pattern, what):
    """Raises ValueError, with the place, for plain values that do not follow a pattern.

    A pattern is a type, a tuple of alternatives, [pattern] for a list of such, or {name: pattern} for an object that has
    these at least, or may lack those that end in a question mark; {...: pattern} is one of any names.
    """
    wrong = _mismatch(value, pattern, what)
    if wrong:
        raise ValueError(wrong)


def _mismatch(value, pattern, what):
    """Where and how a value does not follow a pattern, in words, or None."""
    if isinstance(pattern, tuple):
        found = [_mismatch(value, each, what) for each in pattern]
        return None if None in found else max(found, key=lambda wrong: len(wrong.split()[0]))  # went deepest
    if isinstance(pattern, dict) and isinstance(value, dict):
        for name, each in (dict.fromkeys(value, pattern[...]) if ... in pattern else pattern).items():
            stem = name.removesuffix("?")
            if stem not in value and stem == name:
                return f"{what} lacks {name}"
            wrong = _mismatch(value[stem], each, f"{what}.{stem}") if stem in value else None
            if wrong:
                return wrong
        return None
    if isinstance(pattern, list) and isinstance(value, list):
        return next((w for i, each in enumerate(value) if (w := _mismatch(each, pattern[0], f"{what}[{i}]"))), None)
    if isinstance(pattern, type) and isinstance(value, pattern) and (pattern is bool or not isinstance(value, bool)):
        return None
    return f"{what} is {str(value)[:40]!r}"


def _refuse(name):
    raise ValueError(f"{name} is no JSON")
