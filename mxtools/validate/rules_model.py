"""Rules for the model itself: its data, operators, types, and that ONNX Runtime loads it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from graphlib import CycleError

import onnx
from onnx import ModelProto, TensorProto

from mxtools.errors import InputError
from mxtools.files.weights import is_external, tensors_of
from mxtools.graph.operators import FIRST_VERSION, function_key, operator_key, plain_domain, versions
from mxtools.graph.order import sort_nodes
from mxtools.runtime.pieces import pieces
from mxtools.runtime.sessions import refusal
from mxtools.scopes import keys
from mxtools.validate.rules import CheckedModel, Fault, Severity, rule

_RUNTIMES = ("com.microsoft", "com.ms.")
"""Begin the domains of ONNX Runtime's own operators."""
_FIRST = ("external-data", "sorted", "opset-import")
"""Rules that say in plain words what the checker, and whatever loads the model, would otherwise say."""
_NODE = re.compile(
    r"""node name: ([^)\n]*)\)|[Nn]ame: ?(.*?) OpType|[Nn]ode:? ?\(([^)]*)\)|In Node, \("([^"]*)"|with name '([^']*)'"""
)
"""How the checker, shape inference and ONNX Runtime name the node in their messages."""


@rule("external-data", Severity.ERROR, "put the file beside the model, give ⟨data-dir⟩, or export again")
def _external_data(checked: CheckedModel) -> Iterator[Fault]:
    """External data are there, complete, and inside the model's folder."""
    for tensor in filter(is_external, tensors_of(checked.proto)):
        try:
            checked.model.weights.place(tensor)
        except InputError as error:
            yield Fault(error.problem, _reader(checked, tensor))


@rule("sorted", Severity.ERROR, "fix the program that made the file")
def _sorted(checked: CheckedModel) -> Iterator[Fault]:
    """Each node comes after the nodes whose results it reads."""
    node = checked.graph.misplaced
    if node is None:
        return

    def mend() -> str:
        """Put the nodes in order."""
        sort_nodes(checked.proto)
        return "put the nodes in order"

    copy = ModelProto()
    copy.CopyFrom(checked.proto)
    try:
        sort_nodes(copy)
    except CycleError:
        yield Fault("it reads a value that is computed from its own result", node)
    else:
        yield Fault("it reads the result of a later node", node, mend=mend)


@rule("opset-import", Severity.ERROR, "add an import of the domain, with its version")
def _opset_import(checked: CheckedModel) -> Iterator[Fault]:
    """The model imports the domain of every operator in its graph."""
    imported = versions(checked.proto.opset_import)
    first: dict[str, int] = {}
    for number, (node, region) in enumerate(zip(checked.graph.nodes, checked.graph.region, strict=True)):
        domain = plain_domain(node.domain)
        if not region and domain not in imported:
            first.setdefault(domain, number)
    for domain, number in first.items():
        # If the onnx package knows the domain, any of several versions can be meant.
        is_custom = all(domain != schema.domain for schema in onnx.defs.get_all_schemas())
        mend = partial(_import, checked.proto, domain) if is_custom else None
        yield Fault(f"the model does not import the domain {domain or 'ai.onnx'!r}", number, mend=mend)


@rule("checker", Severity.ERROR, "fix the program that made the file, or export again", unless=_FIRST)
def _checker(checked: CheckedModel) -> Iterator[Fault]:
    """The model is valid ONNX."""
    try:
        onnx.checker.check_model(checked.light())
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        yield _fault(checked, error)


@rule(
    "types",
    Severity.ERROR,
    "correct the node, or the type in the file",
    unless=(*_FIRST, "checker"),
)
def _types(checked: CheckedModel) -> Iterator[Fault]:
    """The types and shapes in the file agree with those that ONNX infers."""
    try:
        checked.infos  # noqa: B018 - only for what it raises
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        yield _fault(checked, error)


@rule(
    "custom-operator",
    Severity.WARNING,
    "register the library that has it; without it, commands that run the model fail",
)
def _custom_operator(checked: CheckedModel) -> Iterator[Fault]:
    """Every operator belongs to ONNX or to ONNX Runtime, or is a function of the model."""
    known = {schema.domain for schema in onnx.defs.get_all_schemas()}
    functions = {function_key(function) for function in checked.proto.functions}
    first: dict[tuple[str, str], int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for number, node in enumerate(checked.graph.nodes):
        domain, operator, _ = key = operator_key(node)
        if domain not in known and not domain.startswith(_RUNTIMES) and key not in functions:
            first.setdefault((domain, operator), number)
            counts[domain, operator] += 1
    for (domain, operator), number in first.items():
        count = counts[domain, operator]
        yield Fault(f"ONNX Runtime has no {operator} of domain {domain!r}, which {_nodes(count)} here", number)


@rule(
    "runtime",
    Severity.ERROR,
    "correct the node, or export for an older opset",
    unless=(*_FIRST, "checker", "types", "custom-operator"),
)
def _runtime(checked: CheckedModel) -> Iterator[Fault]:
    """ONNX Runtime loads the model."""
    whole, weights = checked.proto, checked.model.weights
    for piece in pieces(whole, checked.graph, checked.infos):
        if why := refusal(piece, weights):
            if why := why if piece is whole else refusal(whole, weights):  # its message about the whole model counts
                yield _fault(checked, why)
            return


@rule("ir-version", Severity.ERROR, "raise the IR version to 10")
def _ir_version(checked: CheckedModel) -> Iterator[Fault]:
    """If nodes have metadata, the model's IR version allows it."""
    model, before, wanted = checked.proto, checked.proto.ir_version, keys.FIRST_IR_WITH_NODE_METADATA

    def mend() -> str:
        """Raise the IR version."""
        model.ir_version = wanted
        return f"raised the IR version from {before} to {wanted}"

    if before < wanted and any(checked.entries):
        yield Fault(f"nodes have metadata, which IR version {before} does not allow", mend=mend)


def _import(model: ModelProto, domain: str) -> str:
    model.opset_import.add(domain=domain, version=FIRST_VERSION)
    return f"imported version {FIRST_VERSION} of {domain!r}"


def _reader(checked: CheckedModel, tensor: TensorProto) -> int | None:
    """Return the first node that reads an initializer; None for other tensors."""
    value = checked.graph.by_name.get(tensor.name)
    readers = checked.graph.readers[value] if value is not None else []
    return readers[0] if readers else None


def _fault(checked: CheckedModel, error: Exception | str) -> Fault:
    """Return a library's message as a fault of the node that it names."""
    text = " ".join(str(error).split())
    found = _NODE.search(text)
    name = next((group for group in found.groups() if group), "") if found else ""
    nodes = (number for number, node in enumerate(checked.graph.nodes) if name and node.name == name)
    return Fault(text[:300], next(nodes, None))


def _nodes(count: int) -> str:
    return "a node is" if count == 1 else f"{count} nodes are"
