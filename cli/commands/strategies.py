"""`mx strategies`."""

from __future__ import annotations

import sys

from ..common import emit
from ..options import Json


def command(json: Json = False) -> None:
    """`mx tag --strategy NAME` and `mx auto` run them; yours go into mxtools.toml or pyproject.toml.

    Example: mx strategies
    """
    from mxtools.strategies import table

    listed = table.known()
    if json:
        emit({name: strategy.model_dump(by_alias=True) for name, strategy in listed.items()})
        return
    for name, strategy in listed.items():
        sys.stdout.write(f"{name:<8} {strategy.help}\n")
        for key, value in strategy.model_dump(by_alias=True, exclude={"help"}, exclude_defaults=True).items():
            sys.stdout.write(f"    {key:<13} {value}\n")
