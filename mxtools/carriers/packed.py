"""Entries of a model's metadata: its carriers, its trace, and its scopes with their tags.

The trace and the scopes are JSON, compressed and in base64, because metadata values are text.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.errors import InputError
from mxtools.files.json_text import texts_by_name
from mxtools.files.limits import UNPACKED, LimitError
from mxtools.scopes import keys

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

_WHERE = "in the model's metadata"
_TAG_AGAIN = "⟨tag⟩ again with ⟨trace⟩"


def carriers_of(model: ModelProto) -> frozenset[str]:
    """Return the names of the carriers that a model's metadata list."""
    return frozenset(word for word in keys.props(model).get(keys.CARRIERS, "").split(",") if word)


def write_carriers(model: ModelProto, names: Iterable[str]) -> None:
    """List in a model's metadata which carriers it has."""
    keys.set_prop(model, keys.CARRIERS, ",".join(sorted(names)) or None)


def embed_trace(model: ModelProto, trace: Sidecar) -> None:
    """Write a sidecar to a model's metadata, without the name of its file of recorded values."""
    from mxtools.traces import sidecar

    text = sidecar.dumps(trace.model_copy(update={"record": None}))
    keys.set_prop(model, keys.TRACE, packed(text))


def embedded_trace(model: ModelProto) -> Sidecar | None:
    """Return the sidecar in a model's metadata, None if there is none; InputError if it is damaged."""
    text = keys.props(model).get(keys.TRACE)
    if not text:
        return None
    from mxtools.traces import sidecar

    try:
        return sidecar.loads(unpacked(text, f"the trace {_WHERE}", _TAG_AGAIN), "the trace in the model")
    except LimitError:
        raise
    except InputError as error:
        raise InputError(error.problem, _TAG_AGAIN) from None


def write_scopes(model: ModelProto, tags: Mapping[str, str]) -> None:
    """Write all scopes with their tags, so that scopes in names of nodes and values can be read back by this list."""
    keys.set_prop(model, keys.SCOPES, packed(json.dumps(tags, ensure_ascii=False)))


def scopes_of(model: ModelProto) -> dict[str, str]:
    """Return the scopes in a model's metadata with their tags, empty if there are none; InputError if damaged."""
    text = keys.props(model).get(keys.SCOPES)
    return texts_by_name(unpacked(text, f"the scopes {_WHERE}", _TAG_AGAIN)) if text else {}


def packed(text: str) -> str:
    """Return a text as shorter text: compressed, in base64."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str, what: str, remedy: str) -> bytes:
    """Return what `packed` packed; InputError, with `what` it is and a remedy, if it is damaged or too large."""
    unpacker = zlib.decompressobj()
    content = data = b""
    try:
        content = base64.b64decode(text, validate=True)
        data = unpacker.decompress(content, UNPACKED.allowed(len(content)) + 1)
    except (ValueError, zlib.error):
        pass  # so there are no data, and the error below says this
    UNPACKED.check(len(data), what, len(content))
    if not data or not unpacker.eof:
        raise InputError(f"{what} cannot be read", remedy)
    return data
