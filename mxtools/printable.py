"""Text that comes from anywhere, for people: names in a model can hold what steers a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Give a text with what is not printable written out, as `\x1b`; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or c.isprintable() else repr(c)[1:-1] for c in text)
