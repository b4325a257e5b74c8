"""Measure which tags survive which tool, and write the table into docs/survival.md.

survival.py: a small BERT and a small ResNet of `fixtures/models.py`, exported by TorchScript and tagged, go through
every tool. Counted are the nodes of the result that still have a scope in some place, and the nodes that `mx tag` gives
the right scope, from the file alone and with `--from`. A scope is right where a node of that scope made the same value
before: values decide, which `mx tag` does not look at here. A node whose value the graph did not have before, as a
quantised one, is not judged.

`pip install onnxslim onnxsim` for all tools; the table says which ones are missing.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from mxtools.carriers.doc_strings import read_doc_string
from mxtools.carriers.names import scope_in
from mxtools.carriers.packed import embedded_trace
from mxtools.files.writing import write_model
from mxtools.graph.index import NOWHERE
from mxtools.matching.equal_values import computed_values, summary_of
from mxtools.passes.carry import Carry
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.sources import sources_of
from mxtools.runtime.quiet import error_line, quiet
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations
from mxtools.strategies import table as strategies
from mxtools.traces.values import Values

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "survival.md"
BEGIN, END = "<!-- measured: benchmarks/survival.py -->\n", "<!-- /measured -->"
NAMES = ("bert", "resnet")
CLOSE, TIED, COPY = 0.2, 1e-3, 0.05
"""Distances of summaries: up to CLOSE two values can be the same; values whose distances differ by TIED are equally
near; up to COPY a value is a copy of another value of the same graph."""
COLUMNS = ("nodes", "metadata", "doc string", "node name", "output name", "model", "judged", "alone", "--from")

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
Tool = Callable[[Path, Path], None]


def ort(level: str) -> Tool:
    """Return ONNX Runtime's optimiser at a level."""

    def run(source: Path, target: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(source, options)

    return run


def of_model(change: Callable[[ModelProto], ModelProto]) -> Tool:
    """Return a tool from a function on a model in memory."""
    return lambda source, target: onnx.save(change(onnx.load(source)), target)


def onnxslim(model: ModelProto) -> ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def onnxsim(model: ModelProto) -> ModelProto:
    import onnxsim

    return onnxsim.simplify(model)[0]


def onnxscript(model: ModelProto) -> ModelProto:
    import onnxscript.optimizer

    return onnxscript.optimizer.optimize(model)


def converted(model: ModelProto) -> ModelProto:
    import onnx.version_converter

    return onnx.version_converter.convert_version(model, model.opset_import[0].version + 1)


def float16(model: ModelProto) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def surgeon(model: ModelProto) -> ModelProto:
    import onnx_graphsurgeon

    return onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model).cleanup().toposort())


def dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target)


def static(inputs: Inputs) -> Tool:
    """Return the static quantiser, calibrated on some inputs."""

    def run(source: Path, target: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

        class Once(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = [inputs]

            def get_next(self) -> Inputs | None:
                return self.left.pop() if self.left else None

        quantize_static(source, target, Once(), quant_format=QuantFormat.QDQ)

    return run


def four_bits(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


STATIC = "quantize_static, QDQ"
TOOLS: dict[str, Tool] = {
    "ONNX Runtime basic": ort("ORT_ENABLE_BASIC"),
    "ONNX Runtime extended": ort("ORT_ENABLE_EXTENDED"),
    "ONNX Runtime all": ort("ORT_ENABLE_ALL"),
    "onnxslim": of_model(onnxslim),
    "onnxsim": of_model(onnxsim),
    "onnxscript optimizer": of_model(onnxscript),
    "onnx.version_converter": of_model(converted),
    "onnx.shape_inference": of_model(lambda model: onnx.shape_inference.infer_shapes(model)),
    "onnx-graphsurgeon": of_model(surgeon),
    "float16 (ONNX Runtime)": of_model(float16),
    "quantize_dynamic": dynamic,
    STATIC: static({}),
    "MatMulNBits": four_bits,
}


def main() -> int:
    """Measure, print, and write the table into the page."""
    logging.disable(logging.CRITICAL)
    found: dict[str, dict[str, dict[str, str] | str]] = {tool: {} for tool in TOOLS}
    for name in NAMES:
        with tempfile.TemporaryDirectory(prefix="mx-") as folder, quiet():
            for tool, cells in measured(name, Path(folder)):
                found[tool][name] = cells
    text = "\n".join(table(found))
    print(text)
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"(?s)(?<={BEGIN}).*(?={END})", lambda _: f"{text}\n", page))
    return 0


def measured(name: str, folder: Path) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Put a model through every tool; yield each with what survived, or why it failed."""
    with sources_of(lambda: load_subject(f"{ROOT / 'fixtures' / 'models.py'}:{name}")) as sources:
        exported = sources.export("torchscript")[-1].path
        sidecar, values = sources.trace(values=True)
        assert values is not None
        files = folder / "plain.onnx", folder / "carrying.onnx"
        carry = Carry(doc_string=True, rename=True, output_names=True, embed_trace=True)
        for file, step in zip(files, (None, carry), strict=True):
            loaded = WorkingModel.read(exported, sidecar=sidecar)
            strategies.get("auto").passes(carry=step).apply(loaded)
            write_model(loaded.proto, loaded.weights, file)
        inputs = {i.name: values.get(i.name) for i in onnx.load(files[0]).graph.input}
        given = {name: array for name, array in inputs.items() if array is not None}
        for tool, run in (TOOLS | {STATIC: static(given)}).items():
            made = [file.with_name("made-" + file.name) for file in files]
            try:
                for file, target in zip(files, made, strict=True):
                    target.unlink(missing_ok=True)
                    run(file, target)
                cells = survived(files, made, values)
            except ImportError as error:
                yield tool, f"not installed ({error.name})"
            except Exception as error:  # tools raise anything
                yield tool, f"fails ({error_line(error, 60)})"
            else:
                yield tool, cells


def survived(before: tuple[Path, Path], made: list[Path], values: Values) -> dict[str, str]:
    """Return the cells of one tool's row."""
    result, known = onnx.load(made[1]), scopes_of(before[1])
    nodes = result.graph.node
    kept = {
        "metadata": [keys.SCOPE in keys.props(node) for node in nodes],
        "doc string": [bool(read_doc_string(node.doc_string)) for node in nodes],
        "node name": [scope_in(node.name, known) is not None for node in nodes],
        "output name": [any(scope_in(name, known) is not None for name in node.output) for node in nodes],
    }
    return {
        "nodes": str(len(nodes)),
        **{key: _per_cent(flags) for key, flags in kept.items()},
        "model": "yes" if embedded_trace(result) else "no",
        "judged": str(len(judged(before[0], made[0], values))),
        "alone": _per_cent(judged(before[1], made[1], values, alone=True)),
        "--from": _per_cent(judged(before[0], made[0], values)),
    }


def judged(before: Path, made: Path, values: Values, alone: bool = False) -> list[bool]:
    """Tag what a tool made, with the model before or from the file alone; return for judged nodes if it is right."""
    was, now = WorkingModel.read(before), WorkingModel.read(made)
    was.sidecar = None
    now.sidecar, now.previous = (now.sidecar, None) if alone else (None, was)
    strategies.get("auto" if alone else "previous").passes().apply(now)
    now = WorkingModel(now.proto, now.weights)
    annotations = now.annotations
    scopes_before = twins(was, values)
    found, seen = [], list[tuple[int, Array]]()
    for value, array in computed_values(now, values):
        node, summary = annotations.graph.producer[value], summary_of(array)
        if summary is None or node == NOWHERE or _is_copy(array.size, summary, seen):
            continue
        seen.append((array.size, summary))
        expected = scopes_before(array, summary)
        if expected:
            found.append(scope_of(annotations, node) in expected)
    return found


def _is_copy(size: int, summary: Array, seen: list[tuple[int, Array]]) -> bool:
    return any(size == other and distance(summary, known) < COPY for other, known in seen)


def _per_cent(flags: list[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.0f}" if flags else "-"


def twins(previous: WorkingModel, values: Values) -> Callable[[Array, Array], set[str]]:
    """Return a function from a value to the scopes of the nodes that made it before: of those nearest to it."""
    known: dict[tuple[int, str], list[tuple[str, Array]]] = {}
    for value, array in computed_values(previous, values):
        if (summary := summary_of(array)) is not None:
            scope = scope_of(previous.annotations, previous.graph.producer[value])
            known.setdefault((array.size, kind(array)), []).append((scope, summary))

    def scopes_before(array: Array, summary: Array) -> set[str]:
        near = [(distance(s, summary), scope) for scope, s in known.get((array.size, kind(array)), ())]
        least = min((far for far, _ in near), default=np.inf)
        return {scope for far, scope in near if far <= least + TIED} if least < CLOSE else set()

    return scopes_before


def distance(one: Array, other: Array) -> float:
    """Return the distance of two summaries, relative to the root mean square of the second."""
    return float(np.abs(one - other).max() / other[0])


def kind(array: Array) -> str:
    return str(array.dtype.kind)


def scope_of(annotations: Annotations, node: int) -> str:
    call = annotations.call[node]
    return "" if call is None else annotations.hierarchy.scopes[call]


def scopes_of(file: Path) -> set[str]:
    props = (keys.props(node) for node in onnx.load(file).graph.node)
    return {found[keys.SCOPE] for found in props if keys.SCOPE in found} | {"."}


def table(found: dict[str, dict[str, dict[str, str] | str]]) -> Iterator[str]:
    """Yield the lines of the table as Markdown; each cell has the shares of all models."""
    yield f"Per cent of nodes, {' / '.join(NAMES)}.\n"
    yield f"| tool | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for tool, results in found.items():
        cells = [" / ".join(_cell(result, column) for result in results.values()) for column in COLUMNS]
        yield f"| {tool} | {' | '.join(cells)} |"
    for tool, results in found.items():
        for name, result in results.items():
            if isinstance(result, str):
                yield f"\n{tool} on {name}: {result}."
    packages = ("onnx", "onnxruntime", "onnxscript", "onnxslim", "onnxsim", "onnx-graphsurgeon")
    versions = ((package, importlib.metadata.version(package)) for package in packages if _is_installed(package))
    yield f"\nWith {', '.join(f'{package} {version}' for package, version in versions)}."


def _cell(result: dict[str, str] | str, column: str) -> str:
    return "-" if isinstance(result, str) else result[column]


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
