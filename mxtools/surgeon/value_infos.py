"""Merge the declared types of a graph's tensors: the file's own stay if an edit changed neither type nor shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs
from onnx import ValueInfoProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter


class TypeMerge:
    """The types of the tensors of one graph, before and after it was edited."""

    def __init__(self, after: gs.Graph, before: gs.Graph) -> None:
        """Take the edited graph and its unedited twin."""
        self.after, self.before = after.tensors(), before.tensors()
        self.made = [tensor for node in after.nodes for tensor in node.outputs]
        self.at_boundary = {tensor.name for tensor in (*after.inputs, *after.outputs)}
        self.was_at_boundary = {tensor.name for tensor in (*before.inputs, *before.outputs)}

    def is_left(self, name: str) -> bool:
        """Return whether a tensor is still in the graph, or was never one that graphsurgeon knew."""
        return name not in self.before or name in self.after

    def boundary(
        self,
        after: Sequence[gs.Tensor],
        before: Sequence[gs.Tensor],
        originals: Sequence[ValueInfoProto],
        typed: bool,
        defaults: Sequence[ValueInfoProto] = (),
    ) -> list[ValueInfoProto]:
        """Merge inputs or outputs; `defaults` are inputs with an initializer, which graphsurgeon leaves out."""
        known = {info.name: info for info in originals}
        infos = {tensor.name: self._info(tensor, known.get(tensor.name), typed) for tensor in after}
        if [tensor.name for tensor in after] == [tensor.name for tensor in before]:
            infos |= {info.name: info for info in defaults}
            return [infos[info.name] for info in originals if info.name in infos]
        return [*(infos[tensor.name] for tensor in after), *defaults]

    def inner(self, originals: Sequence[ValueInfoProto]) -> list[ValueInfoProto]:
        """Merge the types of inner tensors, and add those of new tensors whose type is known."""
        known = self.at_boundary.union(info.name for info in originals)
        kept = [
            self._info(self.after[info.name], info) if info.name in self.after else info
            for info in originals
            if self.is_left(info.name)
        ]
        new = [
            self._info(tensor, None)
            for tensor in self.made
            if isinstance(tensor, gs.Variable)
            and tensor.dtype is not None
            and tensor.name not in known
            and (tensor.name in self.was_at_boundary or not self._is_as_before(tensor))
        ]
        return kept + new

    def _info(self, tensor: gs.Tensor, info: ValueInfoProto | None, typed: bool = False) -> ValueInfoProto:
        if info is not None and self._is_as_before(tensor):
            return info
        result: ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, typed)
        if info is not None:
            result.doc_string = info.doc_string
            result.metadata_props.extend(info.metadata_props)
        return result

    def _is_as_before(self, tensor: gs.Tensor) -> bool:
        twin = self.before.get(tensor.name)
        return twin is not None and _type(twin) == _type(tensor)


def _type(tensor: gs.Tensor) -> tuple[Any, list[Any] | None]:
    return tensor.dtype, None if tensor.shape is None else list(tensor.shape)
