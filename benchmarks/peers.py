"""The jobs of `comparison.py` in other libraries, as their documentation has them; runs in an environment of its own.

peers.py LIBRARY copy|annotate|cut|layers MODEL OUT [ENDS]: ENDS is a JSON file with the inputs and outputs of each
part that is cut out; `cut` takes the first, and `layers` writes all of them as OUT.0, OUT.1 and so on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MARK = "scope"


class Onnx:
    """The package onnx."""

    has_data = False
    """Whether the model that was loaded has external data."""

    def load(self, file: str) -> Any:
        import onnx

        self.has_data = Path(f"{file}.data").exists()
        return onnx.load(file)

    def save(self, model: Any, file: str) -> None:
        import onnx

        onnx.save(model, file, save_as_external_data=self.has_data, location=f"{Path(file).name}.data")

    def annotate(self, model: Any) -> None:
        for node in model.graph.node:
            node.metadata_props.add(key=MARK, value=node.name)

    def cut(self, file: str, out: str, inputs: list[str], outputs: list[str]) -> None:
        import onnx.utils

        onnx.utils.extract_model(file, out, inputs, outputs)


class Ir:
    """onnx_ir."""

    def load(self, file: str) -> Any:
        import onnx_ir

        return onnx_ir.load(file)

    def save(self, model: Any, file: str) -> None:
        import onnx_ir

        large = any(isinstance(w.const_value, onnx_ir.ExternalTensor) for w in model.graph.initializers.values())
        onnx_ir.save(model, file, external_data=f"{Path(file).name}.data" if large else None)

    def annotate(self, model: Any) -> None:
        for node in model.graph:
            node.metadata_props[MARK] = node.name or ""

    def cut(self, file: str, out: str, inputs: list[str], outputs: list[str]) -> None:
        import onnx_ir

        model = self.load(file)
        part = onnx_ir.convenience.extract(model.graph, inputs, outputs)
        self.save(onnx_ir.Model(part, ir_version=model.ir_version), out)


class GraphSurgeon(Onnx):
    """onnx-graphsurgeon."""

    def load(self, file: str) -> Any:
        import onnx_graphsurgeon

        return onnx_graphsurgeon.import_onnx(super().load(file))

    def save(self, model: Any, file: str) -> None:
        import onnx_graphsurgeon

        super().save(onnx_graphsurgeon.export_onnx(model), file)

    def annotate(self, model: Any) -> None:
        """Write names, as it has no metadata of nodes."""
        for node in model.nodes:
            node.name = f"{MARK}/{node.name}"

    def cut(self, file: str, out: str, inputs: list[str], outputs: list[str]) -> None:
        import numpy as np

        model = self.load(file)
        tensors = model.tensors()
        model.inputs = [tensors[name] for name in inputs]
        model.outputs = [tensors[name] for name in outputs]
        for tensor in (*model.inputs, *model.outputs):
            tensor.dtype = tensor.dtype or np.float32  # the graph must say types, and inner tensors have none
        for tensor in model.inputs:
            tensor.inputs.clear()
        self.save(model.cleanup(), out)


class Polygraphy:
    """Polygraphy, as its `surgeon extract`."""

    def cut(self, file: str, out: str, inputs: list[str], outputs: list[str]) -> None:
        import numpy as np
        from polygraphy.backend.onnx import extract_subgraph, onnx_from_path, save_onnx
        from polygraphy.common import TensorMetadata

        given, wanted = TensorMetadata(), TensorMetadata()
        for name in inputs:
            given.add(name, None, None)
        for name in outputs:
            wanted.add(name, np.float32, None)
        save_onnx(extract_subgraph(onnx_from_path(file), given, wanted), out)


class Sne4onnx:
    """sne4onnx."""

    def cut(self, file: str, out: str, inputs: list[str], outputs: list[str]) -> None:
        import sne4onnx

        sne4onnx.extraction(
            input_onnx_file_path=file,
            input_op_names=inputs,
            output_op_names=outputs,
            output_onnx_file_path=out,
            non_verbose=True,
        )


LIBRARIES: dict[str, Any] = {
    "onnx": Onnx,
    "onnx_ir": Ir,
    "graphsurgeon": GraphSurgeon,
    "polygraphy": Polygraphy,
    "sne4onnx": Sne4onnx,
}


def main() -> None:
    name, job, file, out, *ends = sys.argv[1:]
    library = LIBRARIES[name]()
    if job in ("copy", "annotate"):
        model = library.load(file)
        if job == "annotate":
            library.annotate(model)
        library.save(model, out)
        return
    parts = json.loads(Path(ends[0]).read_text())
    for number, (inputs, outputs) in enumerate(parts if job == "layers" else parts[:1]):
        library.cut(file, f"{out}.{number}" if job == "layers" else out, inputs, outputs)


if __name__ == "__main__":
    main()
