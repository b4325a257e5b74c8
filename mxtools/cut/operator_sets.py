"""Bring a part to the operator sets of the model that it goes into."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto

from mxtools.errors import InputError
from mxtools.files.writing import materialise
from mxtools.graph.functions import every_node, function_nodes
from mxtools.graph.operators import OperatorKey, function_key, operator_key, schema, versions
from mxtools.pipeline.working_model import WorkingModel


def _differing(
    nodes: Iterable[NodeProto], functions: Collection[OperatorKey], ours: Mapping[str, int], theirs: Mapping[str, int]
) -> dict[str, str]:
    """Return the domains in which an operator can differ between two sets of versions, each with one such operator."""
    found: dict[str, str] = {}
    operators = (key for node in nodes if (key := operator_key(node)) not in functions)
    for domain, op in dict.fromkeys((domain, op) for domain, op, _ in operators):
        a, b = ours.get(domain), theirs.get(domain)
        if a is None or b is None or a == b or domain in found:
            continue
        since = _since(domain, op, a)
        if since is None or since != _since(domain, op, b):
            found[domain] = op
    return found


def reconciled(part: WorkingModel, model: ModelProto) -> WorkingModel:
    """Return a part at the operator sets of a model: the part itself if its nodes mean the same, else converted.

    Raises InputError if it cannot be converted.
    """
    ours, theirs = versions(model.opset_import), versions(part.proto.opset_import)
    functions = {function_key(f): f for f in part.proto.functions}
    for function in functions.values():
        own = versions(function.opset_import)
        for domain, op in _differing(function_nodes(function), functions, ours, own).items():
            raise _unlike(domain, op, ours, own)
    changed = _differing(every_node(part.proto.graph.node), functions, ours, theirs)
    for domain, op in changed.items():
        if domain:
            raise _unlike(domain, op, ours, theirs)
    if not changed:
        return part
    try:
        found = _converted(materialise(part.proto, part.weights), ours[""])
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError):
        raise _unlike("", changed[""], ours, theirs) from None
    return WorkingModel(found, name=part.name)


def _converted(part: ModelProto, version: int) -> ModelProto:
    """Return a part, which contains its weights, at another version of ONNX's operators; node metadata get lost."""
    found = onnx.version_converter.convert_version(part, version)
    del found.graph.value_info[:]  # the converter declares its own values wrongly
    del found.functions[:]
    found.functions.extend(part.functions)
    return found


def _since(domain: str, op: str, version: int) -> int | None:
    """Return the version since which an operator means what it means in `version`; None for an unknown operator."""
    found = schema(domain, op, version)
    return None if found is None else found.since_version


def _unlike(domain: str, op: str, ours: Mapping[str, int], theirs: Mapping[str, int]) -> InputError:
    return InputError(
        f"the part has operator set {domain or 'ai.onnx'} {theirs[domain]}, the model {ours[domain]}, and {op} cannot "
        f"be converted",
        f"write the part with operator set {ours[domain]}",
    )
