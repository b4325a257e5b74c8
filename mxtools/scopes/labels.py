"""What exporters write on nodes to name their modules: node names and metadata.

/encoder/layer.0/attention/MatMul                       TorchScript, in the name: a component for each module
pkg.torch.onnx.name_scopes: ['', 'encoder', …, 'mm']    torch.export, in the metadata: paths, and the FX node
"""

from __future__ import annotations

import ast
import re

from onnx import NodeProto

from mxtools.scopes import keys
from mxtools.scopes.scope import ROOT

_PLACE = re.compile(r"_output_\d+\Z")
"""What TorchScript appends to a node's name for a result: which one it is."""


def name_component(path: str) -> str:
    """Return a module's part of a TorchScript node name: its path from the last part that is no number on, or all."""
    parts = path.split(".")
    start = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isnumeric()), 0)
    return ".".join(parts[start:])


def name_components(name: str) -> list[str]:
    """Return the components of a node name: two for `/encoder/layer.0`, and also without the first slash."""
    return [component for component in name.split("/") if component]


def name_of_maker(result: str) -> str:
    """Return a node's name, given the one that TorchScript makes of it for a result: `/act/Relu_output_0`.

    Other names stay as they are.
    """
    return _PLACE.sub("", result)


def paths_on(node: NodeProto) -> tuple[str, ...]:
    """Return the module paths that are written on a node, the outermost first, without the last item, its FX node.

    The classes of the modules are written beside them. If an item's class is its own name, it is not a module but a
    note of the exporter: for sizes of inputs it writes `_empty_nn_module_stack_from_metadata_hook`, twice.
    """
    for entry in node.metadata_props:
        if entry.key == keys.TORCH_NAME_SCOPES:
            paths = _listed(entry.value)[:-1]
            begins_at_root = paths[:1] in ([], [""])  # as those of modules do
            is_note = not begins_at_root and paths[:1] == classes_on(node)[:1]
            return () if is_note else tuple(path or ROOT for path in paths)
    return ()


def classes_on(node: NodeProto) -> list[str]:
    """Return the classes that are written on a node, one for each module path, then that of its FX node."""
    return _listed(keys.props(node).get(keys.TORCH_CLASS_HIERARCHY, ""))


def _listed(text: str) -> list[str]:
    """Return the list of strings whose `repr` a text is; an empty list if it is something else."""
    if "\\" not in text and '"' not in text and text[:2] == "['" and text[-2:] == "']":
        return text[2:-2].split("', '")
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(item) for item in items] if isinstance(items, list) else []
