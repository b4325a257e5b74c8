"""What the words of remedies are on the command line; `mxtools.errors.PYTHON` has the same words for Python."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "tag": "run `mx tag`",
    "trace": "--trace",
    "record": "mx trace --record",
}
