"""`mx recommend`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from typer import Option

from ..common import emit, progress
from ..options import Cache, Json, Priority, takes_model
from ..streams import put


@takes_model
def command(
    load: Any,
    priority: Priority = "coverage",
    limit: Annotated[float, Option(metavar="SECONDS", help="Longest time for test exports.")] = 600.0,
    cache: Cache = None,
    json: Json = False,
) -> None:
    """Traces the model, test-exports it with the exporters that the priority needs, and compares the results.

    Example: mx recommend ./bert --priority fidelity
    """
    subject = load()
    from mxtools.pytorch.sources import sources_of
    from mxtools.pytorch.strategy.probe import Probe
    from mxtools.pytorch.strategy.recommendation import select

    with progress(f"probing {subject.spec}"), sources_of(lambda: subject, cache=cache) as sources:
        found = select(Probe(sources, limit), priority)
    if json:
        emit(asdict(found))
        return
    put(f"{found.strategy} (confidence {found.confidence:.2f})")
    for reason in found.reasons:
        put(f"  because {reason}")
    put(f"  else {', '.join(found.fallbacks)}")
