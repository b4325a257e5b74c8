"""`mx strategies`."""

from __future__ import annotations

from ..common import emit
from ..options import Json
from ..streams import put


def command(json: Json = False) -> None:
    """`mx tag --strategy NAME` and `mx auto` run them. Put your own into mxtools.toml or pyproject.toml.

    Example: mx strategies
    """
    from mxtools.strategies import table

    listed = table.known()
    if json:
        emit({name: strategy.to_dict() for name, strategy in listed.items()})
        return
    usual = table.Strategy(pipeline="").to_dict()
    for name, strategy in listed.items():
        put(f"{name:<8} {strategy.help}")
        for key, value in strategy.to_dict().items():
            if key != "help" and value != usual[key]:
                put(f"    {key:<13} {value}")
