"""`mx passes`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from ..common import emit
from ..options import Json
from ..streams import put


def command(json: Json = False) -> None:
    """`mx run -p` runs them. `mx tag` and `mx filter` are pipelines of them.

    Example: mx passes
    """
    from mxtools.pipeline.registry import key_of, load, names

    def describe(item: Field[Any]) -> dict[str, Any]:
        return {"name": key_of(item), "help": item.metadata.get("help", ""), "required": item.default is MISSING}

    listed: list[dict[str, Any]] = [
        {
            "name": name,
            "help": _first_line(load(name).__doc__),
            "options": [describe(item) for item in fields(load(name))],
        }
        for name in names()
    ]
    if json:
        emit(listed)
        return
    width = max(len(entry["name"]) for entry in listed)
    for entry in listed:
        put(f"{entry['name']:<{width}}  {entry['help']}")
        for option in entry["options"]:
            put(f"    {option['name']:<{width - 4}}  {option['help']}")


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
