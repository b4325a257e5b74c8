"""Netron: an attachment that shows scopes, tags and metrics beside the nodes. Source: view.js of Netron 9.3.

The user drops it onto the opened model. Netron identifies nodes by the first line of their names, so nodes without a
name have no entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mxtools.views.metric_files import as_json
from mxtools.views.structure import Node, Structure


def netron(structure: Structure) -> str:
    """Return the attachment's JSON text."""
    attachment = {
        "signature": "netron:attachment",
        "metadata": list(_metadata(structure)),
        "metrics": list(_metrics(structure)),
    }
    return json.dumps(attachment, indent=1, ensure_ascii=False) + "\n"


def _metadata(structure: Structure) -> Iterator[dict[str, Any]]:
    for node in structure.nodes:
        scope = structure.scopes[node.parent]
        known = {"scope": scope.scope, "tag": scope.tag, "evidence": node.evidence, "merged": ", ".join(node.merged)}
        yield from (_entry(node, name, value) for name, value in known.items() if node.name and value)


def _metrics(structure: Structure) -> Iterator[dict[str, Any]]:
    for name, metric in structure.metrics.items():
        for item, node in enumerate(structure.nodes, len(structure.scopes)):
            known = {name: metric.nodes.get(item), f"{name} of the module": metric.scopes.get(node.parent)}
            yield from (_entry(node, k, as_json(n)) for k, n in known.items() if node.name and n is not None)


def _entry(node: Node, name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    return {"kind": "node", "target": node.name.partition("\n")[0], "name": name, "value": value}
