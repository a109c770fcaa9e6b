"""Names and words of others as text that a terminal can show: nothing in them moves its cursor or turns its lines around."""

import re

# Control characters but for tab and newline; separators of lines; and marks that change the direction of what follows.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
BREAKS = re.compile(r"[\t\n]")


def printable(text, *, lines=False):
    r"""A text with its control characters as escapes, `\x1b`; newlines and tabs too, unless it may have `lines`."""
    text = CONTROLS.sub(_escape, str(text))
    return text if lines else BREAKS.sub(_escape, text)


def _escape(match):
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
