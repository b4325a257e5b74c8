"""Entries of a model's metadata: the carriers that it has, the trace, and the scopes with their tags."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from onnx import ModelProto

from mxtools.errors import InputError
from mxtools.files.json_text import texts_by_name
from mxtools.scopes import keys

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

LARGEST = 1 << 28
"""Bytes up to which an entry is unpacked."""

_AGAIN = "run `mx tag` again with --trace"


def carriers_of(model: ModelProto) -> frozenset[str]:
    """Give the names of the carriers that a model says it has."""
    return frozenset(word for word in keys.props(model).get(keys.CARRIERS, "").split(",") if word)


def write_carriers(model: ModelProto, names: Iterable[str]) -> None:
    """Say which carriers a model has."""
    keys.set_prop(model, keys.CARRIERS, ",".join(sorted(names)) or None)


def embed_trace(model: ModelProto, trace: Sidecar) -> None:
    """Write a sidecar to a model's metadata; the file of recorded values is none of its parts."""
    from mxtools.traces import sidecar

    text = sidecar.dumps(trace.model_copy(update={"record": None}))
    keys.set_prop(model, keys.TRACE, _packed(text))


def embedded_trace(model: ModelProto) -> Sidecar | None:
    """Give the sidecar that a model holds, None where it holds none; InputError where it is damaged."""
    text = keys.props(model).get(keys.TRACE)
    if not text:
        return None
    from mxtools.traces import sidecar

    try:
        return sidecar.loads(_unpacked(text, "trace"), "the trace in the model")
    except InputError as error:
        raise InputError(error.problem, _AGAIN) from None


def write_scopes(model: ModelProto, tags: Mapping[str, str]) -> None:
    """Write all scopes with their tags, so that names of which scopes are a part can be read back."""
    keys.set_prop(model, keys.SCOPES, _packed(json.dumps(tags, ensure_ascii=False)))


def scopes_of(model: ModelProto) -> dict[str, str]:
    """Give the scopes that a model says it has, with their tags; InputError where they are damaged."""
    text = keys.props(model).get(keys.SCOPES)
    return texts_by_name(_unpacked(text, "scopes")) if text else {}


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _unpacked(text: str, what: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), LARGEST)
    except (ValueError, zlib.error):
        data = b""
    if not data or not unpacker.eof:
        raise InputError(f"the {what} in the model's metadata cannot be read", f"{_AGAIN}")
    return data
