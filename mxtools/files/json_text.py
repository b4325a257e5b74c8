"""JSON that comes from anywhere: what is none is a ValueError, or nothing, whatever it is."""

from __future__ import annotations

import json
from typing import Any


def decoded(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Give what JSON text says; ValueError where it is none, or nested deeper than can be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def decoded_or_none(text: str | bytes) -> Any:  # noqa: ANN401
    """Give what JSON text says, None where it says nothing."""
    try:
        return decoded(text)
    except ValueError:
        return None


def list_of_texts(text: str) -> list[str]:
    """Give the texts of a JSON list; none where it is no list."""
    found = decoded_or_none(text)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def texts_by_name(text: str | bytes) -> dict[str, str]:
    """Give the values of a JSON object as texts; none where it is no object."""
    found = decoded_or_none(text)
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
