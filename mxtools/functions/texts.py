"""The texts of nodes that mean nothing to what they compute: names, doc strings and metadata, also in bodies.

A function has these of one call. Of every other call is kept how its texts differ, in few characters, since most differ
as the scopes of the calls do, or by numbers that count on:

    of layer.0                     of layer.1                     kept
    /encoder/layer.0/MatMul        /encoder/layer.1/MatMul        0          what the scopes predict
    val_12                         val_58                         [46]       a number for each number in it
    node_add                       final_add                      "final_add"
    call(%linear, %view_3)         call(%linear_6, %view_7)       {1: "linear_6", 2: [4]}       words by number
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from onnx import NodeProto

from mxtools.files.json_text import decoded_or_none
from mxtools.graph.index import bodies
from mxtools.scopes.scope import MOST_DIGITS, ROOT
from mxtools.scopes.tags import align

WordCode = str | list[int]
Code = int | WordCode | dict[int, WordCode]
"""How a text differs from a predicted one: 0 where it does not, a text where it is another, else its numbers or words.
"""
Predict = Callable[[str], str]
_NUMBER = re.compile(rf"\d{{1,{MOST_DIGITS - 1}}}")
_WORD = re.compile(r"\w+")
_METADATA = "metadata_props"


class Text:
    """A text of a node, a body or a value of one: where it stands, to be read and to be replaced."""

    def __init__(self, holder: Any, field: str) -> None:  # noqa: ANN401 - any message of a model
        """Take a message and the name of a field of it; metadata are one text."""
        self._holder, self._field = holder, field

    def get(self) -> str:
        """Return it."""
        if self._field == _METADATA:
            entries = [[entry.key, entry.value] for entry in self._holder.metadata_props]
            return json.dumps(entries, ensure_ascii=False) if entries else ""
        return str(getattr(self._holder, self._field))

    def set(self, text: str) -> None:
        """Replace it; metadata that are none stay."""
        if self._field == _METADATA:
            entries = decoded_or_none(text) if text else []
            if isinstance(entries, list) and all(_is_entry(entry) for entry in entries):
                del self._holder.metadata_props[:]
                for key, value in entries:
                    self._holder.metadata_props.add(key=key, value=value)
        elif text != self.get():
            setattr(self._holder, self._field, text)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(t, str) and _is_whole(t) for t in entry)


def _is_whole(text: str) -> bool:
    """Return whether a text has no half of a character, as JSON can."""
    return text.isascii() or text.encode(errors="ignore").decode() == text


def texts_of(nodes: Iterable[NodeProto]) -> Iterator[Text]:
    """Yield the texts of nodes and their bodies, in an order of structure, without the names of values."""
    for node in nodes:
        yield from (Text(node, field) for field in ("name", "doc_string", _METADATA))
        for body in bodies(node):
            yield from (Text(body, field) for field in ("name", "doc_string", _METADATA))
            for holder in (*body.input, *body.output, *body.value_info):
                yield from (Text(holder, field) for field in ("doc_string", _METADATA))
            yield from texts_of(body.node)


def coded(text: str, predicted: str) -> Code:
    """Return how a text differs from a predicted one."""
    if text == predicted:
        return 0
    whole = _word_code(text, predicted)
    if not isinstance(whole, str) or _WORD.sub("", text) != _WORD.sub("", predicted):
        return whole
    words = zip(_WORD.findall(text), _WORD.findall(predicted), strict=False)
    code = {number: _word_code(word, other) for number, (word, other) in enumerate(words) if word != other}
    return code if len(str(code)) < len(text) and read(code, predicted) == text else text


def _word_code(text: str, predicted: str) -> WordCode:
    """Return how a text differs, taken as one word: by its numbers, else it is another text."""
    if _NUMBER.sub("0", text) == _NUMBER.sub("0", predicted):
        numbers = zip(_NUMBER.findall(text), _NUMBER.findall(predicted), strict=True)
        code = [int(number) - int(other) for number, other in numbers]
        if read(code, predicted) == text:  # not so with zeros before a number
            return code
    return text


def read(code: Code, predicted: str) -> str:
    """Return the text that differs so from a predicted one; the predicted one where that cannot be."""
    if isinstance(code, str):
        return code
    if isinstance(code, dict):
        count = iter(range(len(predicted)))
        return _WORD.sub(lambda found: read(code.get(next(count), 0), found[0]), predicted)
    if isinstance(code, list) and len(code) == len(_NUMBER.findall(predicted)):
        left = iter(code)
        return _NUMBER.sub(lambda found: str(abs(int(found[0]) + next(left))), predicted)
    return predicted


def prediction(one: tuple[str, str], other: tuple[str, str]) -> Predict:
    """Return what a text of one call is for another: with the scope, the tag and the path of names of that.

    Calls are given by scope and tag.

    Each is replaced where it stands alone: that of `layer.1` is no part of `layer.10`.
    """
    pairs = dict(zip((*one, path_of(*one)), (*other, path_of(*other)), strict=True))
    pairs = {old: new for old, new in pairs.items() if old and new and old != new and old != ROOT}
    if not pairs:
        return str
    longest_first = sorted(pairs, key=len, reverse=True)
    expression = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, longest_first))})(?![\w@])")

    @cache
    def predict(text: str) -> str:
        return expression.sub(lambda found: pairs[found[0]], text)

    return predict


def path_of(scope: str, tag: str) -> str:
    """Return a scope as exporters write it in names: `/encoder/layer.0` of `encoder.layer.0`."""
    return "".join(f"/{local}" for local, _ in align(scope, tag))
