"""Bringing a part to the operator sets of the model that it goes into."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto

from mxtools.errors import InputError
from mxtools.files.writing import materialise
from mxtools.graph.functions import Key, called, every_node, key_of, nodes_of
from mxtools.graph.opsets import plain_domain, versions
from mxtools.pipeline.working_model import WorkingModel


def _differing(
    nodes: Iterable[NodeProto], functions: Collection[Key], ours: Mapping[str, int], theirs: Mapping[str, int]
) -> dict[str, str]:
    """Give the domains in which some operator may mean something else in two sets of versions, with the operator."""
    found: dict[str, str] = {}
    operators = (node for node in nodes if called(node) not in functions)
    for domain, op in dict.fromkeys((plain_domain(node.domain), node.op_type) for node in operators):
        a, b = ours.get(domain), theirs.get(domain)
        if a is None or b is None or a == b or domain in found:
            continue
        since = _since(domain, op, a)
        if since is None or since != _since(domain, op, b):
            found[domain] = op
    return found


def reconciled(part: WorkingModel, model: ModelProto) -> WorkingModel:
    """Give a part at the operator sets of a model: itself where its nodes mean the same under both, else converted.

    Raises InputError where that is not possible.
    """
    ours, theirs = versions(model.opset_import), versions(part.proto.opset_import)
    functions = {key_of(f): f for f in part.proto.functions}
    for function in functions.values():
        own = versions(function.opset_import)
        for domain, op in _differing(nodes_of(function), functions, ours, own).items():
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
    """Give a part, which holds its weights, at another version of ONNX's own operators; metadata of nodes are lost."""
    found = onnx.version_converter.convert_version(part, version)
    del found.graph.value_info[:]  # the converter declares its own values wrongly
    del found.functions[:]
    found.functions.extend(part.functions)
    return found


def _since(domain: str, op: str, version: int) -> int | None:
    """Give the version in which an operator got the meaning that it has in a version, None where there is none."""
    try:
        return onnx.defs.get_schema(op, version, domain).since_version
    except onnx.defs.SchemaError:
        return None


def _unlike(domain: str, op: str, ours: Mapping[str, int], theirs: Mapping[str, int]) -> InputError:
    return InputError(
        f"the part has operator set {domain or 'ai.onnx'} {theirs[domain]}, the model {ours[domain]}, and {op} cannot "
        f"be converted",
        f"make the part with {ours[domain]}",
    )
