"""What a call of a function remembers of the nodes that it stands for, so that unfolding gives the same graph.

It is an entry of the call's metadata: JSON, compressed where it is long. Whatever of it does not fit a function that
another tool changed is not used; names and tags then follow from those of the function.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError
from onnx import NodeProto, ValueInfoProto
from pydantic import TypeAdapter

from mxtools.carriers.packed import packed, unpacked
from mxtools.errors import InputError
from mxtools.files.json_text import require_few_items
from mxtools.files.limits import EXPANDED_NODES
from mxtools.functions.texts import Code, Predict, coded, read
from mxtools.scopes import keys
from mxtools.scopes.scope import DEEPEST

T = TypeVar("T")

COPIED = -1
"""The place of a copy."""
_LISTS, _CODES = ("places", "rest"), ("names", "texts")
_SHORT = 400
"""Characters of a record that is left as it is: what is shorter hardly shrinks."""


@dataclass(frozen=True)
class Codes:
    """How a list of texts differs from a predicted one: its length, and by number the codes that say something."""

    count: int
    other: dict[int, Code]

    @classmethod
    def of(cls, texts: Sequence[str], predicted: Iterable[str]) -> Codes:
        """Return the codes of texts."""
        codes = [coded(text, other) for text, other in zip(texts, predicted, strict=True)]
        return cls(len(codes), {number: code for number, code in enumerate(codes) if code != 0})

    def texts(self, known: Sequence[str], predict: Predict) -> list[str]:
        """Return the texts, from those of the function; where they are not as many, what these predict."""
        other = self.other if self.count == len(known) else {}
        return [read(other.get(number, 0), predict(text)) for number, text in enumerate(known)]


@dataclass(frozen=True)
class Record:
    """What is remembered of a call.

    Attributes: `level`, which counts from the functions that were folded first; `count`, the nodes of the graph before
    the level was folded; `places` of the call's nodes among these, `COPIED` for copies of nodes that are elsewhere in
    the graph; `rest`, the places of the nodes that are in no function, on one call of the level and only where their
    order changed; `names` of values and `texts`, as they differ from the function's; `info_count`, the infos of values
    before; `infos`, of some of the names: which one, the place, and the info where the function has no equal one.
    """

    level: int
    count: int
    places: list[int]
    names: Codes
    texts: Codes
    info_count: int = 0
    infos: list[tuple[int, int, str]] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)

    @property
    def copied(self) -> list[int]:
        """The places, among the nodes of the function, of copies."""
        return [number for number, place in enumerate(self.places) if place == COPIED]

    @property
    def own(self) -> list[int]:
        """The places of the call's own nodes."""
        return [place for place in self.places if place != COPIED]

    def write(self, call: NodeProto) -> None:
        """Write it to a call's metadata."""
        data = asdict(self) | {"places": _runs(self.places), "rest": _runs(self.rest)}
        for name in _CODES:
            data[name] = data[name] if data[name]["other"] else data[name]["count"]
        for name in [name for name in ("info_count", "infos", "rest") if not data[name]]:
            del data[name]
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        keys.set_prop(call, keys.FOLDED, text if len(text) <= _SHORT else packed(text))


_DATA = TypeAdapter(Record)
_REMEDY = "remove this entry from its metadata"


def record_of(call: NodeProto) -> Record | None:
    """Return what a call remembers, None where it has no record; InputError where that is damaged."""
    text = keys.props(call).get(keys.FOLDED)
    if text is None:
        return None
    what = f"what the call {call.name!r} remembers ({keys.FOLDED})"
    data: bytes | str = text if text.startswith("{") else unpacked(text, what, _REMEDY)
    require_few_items(data, what)
    try:
        found = _DATA.validate_python(_expanded(json.loads(data)))
        json.dumps(asdict(found), ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError, TypeError, KeyError):  # also those of pydantic and of UTF-8
        raise InputError(f"{what} cannot be read", _REMEDY) from None
    return found if 0 <= found.level <= DEEPEST else None


def _expanded(data: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the data of a record with lists as they were before they were written shorter."""
    known = {name: data[name] for name in _LISTS if name in data}
    EXPANDED_NODES.check(sum(count for runs in known.values() for _, count in runs), "what a call stands for")
    lists = {name: [n for first, count in runs for n in range(first, first + count)] for name, runs in known.items()}
    codes = {name: {"count": data[name], "other": {}} for name in _CODES if isinstance(data[name], int)}
    return data | lists | codes


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the count of numbers that follow each other."""
    starts = [n for n, number in enumerate(numbers) if not n or number != numbers[n - 1] + 1]
    return [(numbers[start], stop - start) for start, stop in pairwise([*starts, len(numbers)])]


def in_places(rest: Sequence[T], placed: Mapping[int, T], count: int, order: Sequence[int] = ()) -> list[T] | None:
    """Return things in one list: some at their places, the rest at the other places; None where that is impossible.

    `order` has the places of the rest where these are not simply those that are left.
    """
    if count != len(rest) + len(placed):
        return None
    free = list(order) or [place for place in range(count) if place not in placed]
    found = dict(placed) | dict(zip(free, rest, strict=False))
    return [found[place] for place in range(count)] if found.keys() == set(range(count)) else None


def info_text(info: ValueInfoProto) -> str:
    """Return what an info says of a value besides the name, as text."""
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    copy.ClearField("name")
    return base64.b64encode(copy.SerializeToString(deterministic=True)).decode()


def info_from(text: str, name: str) -> ValueInfoProto | None:
    """Return an info of a value from its text; None where it is no info."""
    try:
        info = ValueInfoProto.FromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None
    info.name = name
    return cast(ValueInfoProto, info)
