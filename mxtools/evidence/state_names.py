"""Whether the names of initializers contain modules, like those of a state dict, in a file without a trace.

    encoder.layer.0.query.weight      PyTorch: the parameter `weight` of the module `encoder.layer.0.query`
    linear_0.w_0, helper.constant.0   Paddle, which counts: there is no module `linear_0`, and none called `helper`
    const.5                           another exporter, which counts too

The form does not show it: `linear_0.w_0` has the same form as `head.weight`. A list of such names would fail with the
next exporter. So a name counts only if the rest of the file agrees with it:

- If node names or metadata contain modules, the name has to name one of them, or a module inside one.
- If they contain none, the file must have repeated modules: two with paths that differ in one number, with parameters
  of the same names, which the same operators read. Five nodes:

        layer.0.query.weight ─ MatMul      layer.1.query.weight ─ MatMul      head.weight ─ MatMul
        const.5 ─ Add                      const.7 ─ Mul

  `layer.0.query` and `layer.1.query` are repeated, so the names are those of a state dict, and `head` is a module too.
  `const` is not: the numbers count its parameters, and no parameter has a number as its name. Counters inside words, as
  in `linear_0` and `linear_1`, do not make repeated modules.
- In bodies that torch.export wrote, all names count: it writes modules on nodes, but not on those in bodies, and there
  the names of parameters are complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import OperatorKey, operator_key
from mxtools.scopes import keys
from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.scopes.scope import enclosing_scopes, escape

ModulePath = tuple[str, ...]
"""A module's path, by parts."""

COUNTED = "#"
"""Stands for the number that tells repeated modules apart; no part of a path is called so."""


def module_path(name: str) -> ModulePath:
    """Return the path of the module that a parameter's name names."""
    return tuple(name.split(".")[:-1])


def agreeing(graph: Graph, hierarchy: Hierarchy, names: Mapping[int, str]) -> set[str]:
    """Return those of the names, all of the form `a.b.weight`, with which the rest of the file agrees."""
    found = {name for value, name in names.items() if any(_lost_module(graph, n) for n in graph.readers[value])}
    if len(hierarchy) > 1:
        return found | {name for name in names.values() if _is_known(hierarchy, module_path(name))}
    if _has_repeated(graph, names):
        return found | {name for name in names.values() if not name.rpartition(".")[2].isdecimal()}
    return found


def _lost_module(graph: Graph, node: int) -> bool:
    """Return whether a node is in a body and torch.export's metadata on it list only an operation."""
    written = keys.props(graph.nodes[node]).get(keys.TORCH_NAME_SCOPES, "") if graph.owner[node] != NOWHERE else ""
    return written.startswith("[") and "," not in written


def _is_known(hierarchy: Hierarchy, path: ModulePath) -> bool:
    """Return whether a module or one around it, other than the root, is in the call tree."""
    scope = ".".join(map(escape, path))
    return any(hierarchy.find(known) not in (None, ROOT_CALL) for known in (*enclosing_scopes(scope), scope))


def _has_repeated(graph: Graph, names: Mapping[int, str]) -> bool:
    """Return whether two modules differ only in a number, and have parameters with the same names and the same uses."""
    modules: dict[ModulePath, set[tuple[str, frozenset[OperatorKey]]]] = defaultdict(set)
    for value, name in names.items():
        readers = frozenset(operator_key(graph.nodes[node]) for node in graph.readers[value])
        attribute = name.rpartition(".")[2]
        if readers and not attribute.isdecimal():
            modules[module_path(name)].add((attribute, readers))
    seen = set()
    for path, uses in modules.items():
        for pattern in _patterns(path):
            if (pattern, frozenset(uses)) in seen:
                return True
            seen.add((pattern, frozenset(uses)))
    return False


def _patterns(path: ModulePath) -> Iterator[ModulePath]:
    """Yield a path once for each of its numbers, with that number left open; nothing for a path of numbers only."""
    if not all(part.isdecimal() for part in path):
        for at, part in enumerate(path):
            if part.isdecimal():
                yield (*path[:at], COUNTED, *path[at + 1 :])
