"""Text from data, file names and vocabularies, made safe to show: control characters are written out as escapes."""

import re

# Controls but tab and newline, which start the commands of a terminal; marks that turn the direction of writing; halves of
# surrogate pairs, which no output can encode: what Python makes of a file name that is not UTF-8.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text in which each control character is written as its escape, such as `\x1b`, and the rest as it is."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""Return a printable text without line breaks and tabs: they are written out as `\n` and `\t` too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
