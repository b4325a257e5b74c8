"""Reading JSON that anybody may have written: whatever is wrong with it is a ValueError, or counts as nothing."""

from __future__ import annotations

import json
from typing import Any


def decoded(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the data of JSON text; ValueError if it is not JSON, or nested too deep for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def decoded_or_none(text: str | bytes) -> Any:  # noqa: ANN401
    """Return the data of JSON text, None if it is not JSON."""
    try:
        return decoded(text)
    except ValueError:
        return None


def list_of_texts(text: str) -> list[str]:
    """Return the strings in a JSON list; an empty list if the text is no JSON list."""
    items = decoded_or_none(text)
    return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []


def texts_by_name(text: str | bytes) -> dict[str, str]:
    """Return the entries of a JSON object, values as strings; an empty dictionary if the text is no JSON object."""
    entries = decoded_or_none(text)
    return {name: str(value) for name, value in entries.items()} if isinstance(entries, dict) else {}
