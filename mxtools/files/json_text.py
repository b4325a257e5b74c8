"""JSON that anybody may have written, of which every fault is a ValueError or counts as nothing; and its numbers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeVar

from mxtools.files.limits import JSON_ITEMS

if TYPE_CHECKING:
    from pydantic import BaseModel

Record = TypeVar("Record", bound="BaseModel")


def decoded(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the data in JSON text; ValueError if it is not JSON, or nested too deep for Python's parser.

    Raises InputError if it has more items than the limit allows.
    """
    require_few_items(text, "a JSON text")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def finite(value: float) -> float | str:
    """Return a number in a form that JSON can hold: an infinity is a string."""
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def require_few_items(text: str | bytes, what: str) -> None:
    """Raise InputError if JSON text has more items than allowed: in memory, `[[],[],…` takes forty times its size."""
    if len(text) > JSON_ITEMS.allowed():  # each item takes a character
        marks: tuple[Any, ...] = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
        JSON_ITEMS.check(sum(map(text.count, marks)), what)


def validated(model: type[Record], text: str | bytes, what: str) -> Record:
    """Return JSON text as an object of a pydantic model; raises its ValidationError, InputError as `decoded` does."""
    require_few_items(text, what)
    return model.model_validate_json(text)


def decoded_or_none(text: str | bytes) -> Any:  # noqa: ANN401
    """Return the data of JSON text, None if it is not JSON."""
    try:
        return decoded(text)
    except ValueError:
        return None


def list_of_texts(text: str) -> list[str]:
    """Return the strings in a JSON list; an empty list if the text is something else."""
    items = decoded_or_none(text)
    return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []


def texts_by_name(text: str | bytes) -> dict[str, str]:
    """Return the entries of a JSON object, with values as strings; an empty dictionary for any other text."""
    entries = decoded_or_none(text)
    return {name: str(value) for name, value in entries.items()} if isinstance(entries, dict) else {}
