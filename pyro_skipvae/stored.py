"""What is read back from JSON: whether it has the shape of what was written."""

import json
import math
from types import NoneType

NUMBER = (int, float, NoneType)  # what was not finite is null
LARGEST = 2**63  # of whole numbers
INTERVAL = ({"value": NUMBER, "low": NUMBER, "high": NUMBER}, NoneType)


def loads(text):
    """The plain values of a JSON text. Raises ValueError for any other text.

    Also for NaN and Infinity, which are no JSON, for numbers beyond those of the machine, and for what is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def finite_or_none(value):
    """Plain values for JSON, in which what is not finite is None."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(value, pattern, what):
    """Raises ValueError, with the place, for plain values that do not follow a pattern.

    A pattern is a type, a tuple of alternatives, [pattern] for a list of such, or {name: pattern} for an object that has
    these at least, or may lack those that end in a question mark; {...: pattern} is one of any names.
    """
    try:
        wrong = _mismatch(value, pattern, what)
    except RecursionError:
        wrong = f"{what} is nested too deep"
    if wrong:
        raise ValueError(wrong)


def _mismatch(value, pattern, what):
    """Where and how a value does not follow a pattern, in words, or None."""
    if isinstance(pattern, tuple):
        found = [_mismatch(value, each, what) for each in pattern]
        return None if None in found else max(found, key=lambda wrong: len(wrong.split()[0]))  # went deepest
    if isinstance(pattern, dict) and isinstance(value, dict):
        strange = next((key for key in value if not isinstance(key, str)), "")
        if strange != "":
            return f"{what} has the name {str(strange)[:40]!r}"
        if ... in pattern:
            return next((w for key, each in value.items() if (w := _mismatch(each, pattern[...], f"{what}.{key[:40]}"))), None)
        for name, each in pattern.items():
            stem = name.removesuffix("?")
            if stem not in value and stem == name:
                return f"{what} lacks {name}"
            wrong = _mismatch(value[stem], each, f"{what}.{stem}") if stem in value else None
            if wrong:
                return wrong
        return None
    if isinstance(pattern, list) and isinstance(value, list):
        return next((w for i, each in enumerate(value) if (w := _mismatch(each, pattern[0], f"{what}[{i}]"))), None)
    is_flag, is_too_large = isinstance(value, bool), isinstance(value, int) and abs(value) >= LARGEST
    if isinstance(pattern, type) and isinstance(value, pattern) and is_flag <= (pattern is bool) and not is_too_large:
        return None
    return f"{what} is {str(value)[:40]!r}"


def _finite(text):
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is beyond the numbers of the machine")
    return number


def _whole(text):
    number = int(text) if len(text) < 30 else LARGEST
    if abs(number) >= LARGEST:
        raise ValueError(f"{text[:40]} is beyond the whole numbers of the machine")
    return number


def _refuse(name):
    raise ValueError(f"{name} is no JSON")
