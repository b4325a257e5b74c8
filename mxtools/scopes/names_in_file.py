"""The scopes, tags, classes and operators in a file, found without making a model of it; for completion.

A shell asks at every press of a key, so this is quick and takes what it finds: a file that is broken or still being
written has fewer names, or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mxtools.errors import MxError
from mxtools.files import json_text, wire
from mxtools.files.regular import FileBytes, open_regular
from mxtools.scopes.keys import SCOPE, TAG
from mxtools.scopes.scope import ROOT, join
from mxtools.scopes.tags import align

_MODEL_FUNCTION, _GRAPH_NODE, _NODE_OPERATOR, _ENTRY_VALUE = 25, 1, 4, 2
"""Numbers of fields in onnx.proto."""
_LARGEST_SIDECAR = 1 << 26
"""Bytes of the largest sidecar that is read while somebody waits for a key."""


@dataclass
class NamesInFile:
    """The names in a file: the tag of each scope, and the operators; each once."""

    tags: dict[str, str] = field(default_factory=dict)
    operators: dict[str, None] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The classes of the modules, from all levels of the tags."""
        levels = (level for tag in self.tags.values() for level in tag.split("/") if level)
        return [*dict.fromkeys(re.split(r"[.@]", level)[0] for level in levels)]

    def add(self, scope: str, tag: str) -> None:
        """Add a scope with its tag, and those around it, the outermost first."""
        if scope in self.tags:
            return
        levels = align(scope, tag)
        outer, above = ROOT, f"/{tag.split('/')[1]}" if tag.startswith("/") else ""
        for local, level in levels[:-1]:
            outer, above = join(outer, local), f"{above}/{level}"
            self.tags.setdefault(outer, above)
        self.tags[scope] = tag


def names_in_file(path: Path) -> NamesInFile:
    """Return the names in a model or a sidecar; nothing for any other file. OSError if it cannot be read."""
    found = NamesInFile()
    with open_regular(path, noted=False) as file:
        data = FileBytes(file, str(path))
        try:
            if not len(data) or data[0] not in b"{ \t\r\n":
                _add_model(found, data)
            elif len(data) <= _LARGEST_SIDECAR:
                _add_sidecar(found, data[:])
        except (wire.WireError, MxError):
            pass  # what was found before it counts
    return found


def _add_sidecar(found: NamesInFile, text: bytes) -> None:
    known = json_text.decoded_or_none(text)
    calls = known.get("calls") if isinstance(known, dict) else None
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and {"scope", "tag"} <= call.keys():
            found.add(str(call["scope"]), str(call["tag"]))


def _add_model(found: NamesInFile, data: FileBytes) -> None:
    """Add what the nodes of a model name, including those in bodies and functions; operators only of the main graph."""
    for part in wire.fields(data, 0, len(data)):
        if part.number == wire.MODEL_GRAPH:
            for node in wire.fields(data, part.value, part.end):
                if node.number == _GRAPH_NODE:
                    held = data[node.value : node.end]
                    found.operators |= dict.fromkeys(_operators(held))
                    _add_nodes(found, held)
        elif part.number == _MODEL_FUNCTION:
            _add_nodes(found, data[part.value : part.end])


def _add_nodes(found: NamesInFile, held: bytes) -> None:
    """Add what is written on a node, or on the nodes of a function, and on the nodes inside."""
    for scope, tag in zip(_values(SCOPE, held), _values(TAG, held), strict=False):
        found.add(scope, tag)


def _operators(node: bytes) -> Iterator[str]:
    for part in wire.fields(memoryview(node), 0, len(node)):
        if part.number == _NODE_OPERATOR:
            yield node[part.value : part.end].decode(errors="replace")


def _values(key: str, held: bytes) -> Iterator[str]:
    """Yield the values of a key of metadata, in the order of the nodes."""
    mark = key.encode() + bytes([_ENTRY_VALUE << 3 | 2])  # a key is written before its value
    at = held.find(mark)
    while at >= 0:
        value = next(wire.fields(memoryview(held), at + len(mark) - 1, len(held)))
        yield held[value.value : value.end].decode(errors="replace")
        at = held.find(mark, value.end)
