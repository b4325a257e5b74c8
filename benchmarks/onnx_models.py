"""Tag, cut and fold the models that the onnx package ships, and the cases that it generates for its operators.

Each model's outputs must stay bit-equal when it is tagged and when its root is cut out; where ONNX Runtime cannot run
the raw model, mxtools still must work. Then each node of the main graph is cut out on its own: the part must load if
the whole model does, and compute what the node computes there. And the nodes, as one module and as two, become
functions: the model must load and compute what it did, and unfolded be the same. ONNX Runtime's optimiser is off: it
treats initializers that are inputs as constants in old IR versions only. A model whose outputs differ between two runs
only has to load.

    python benchmarks/onnx_models.py [GROUP …]

Prints passed/total for each group, and a line for each failure. Exit status 1 when there is any.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, OptionalProto, SequenceProto, TensorProto, ValueInfoProto, checker, numpy_helper
from onnx.backend.test.loader import load_model_tests

from mxtools.errors import AbsentError, MxError
from mxtools.files.writing import write_model
from mxtools.functions.definitions import DOMAIN
from mxtools.graph.index import Graph
from mxtools.graph.shapes import is_shaped
from mxtools.passes.filter import Filter
from mxtools.passes.fold import Fold
from mxtools.passes.unfold import Unfold
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.strategies import table

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SHIPPED = ("simple", "pytorch-operator", "pytorch-converted", "light")
STRIDE = 250
"""One in so many models of a group goes through the `mx` command too."""
MX = Path(sys.executable).with_name("mx")
TAG = str(table.get("auto").passes())
REFUSALS = suppress(Exception)
"""For what onnx or ONNX Runtime may refuse: the classes that they raise have no other in common."""

Value = Any  # an array, a list of them, a dictionary, or None


@dataclass
class Case:
    """A model, with its inputs where the test data have them."""

    name: str
    model: ModelProto
    inputs: Sequence[Value] | None


@dataclass
class Count:
    """How many checks passed, and what went wrong with the others."""

    passed: int = 0
    total: int = 0
    compared: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.passed}/{self.total} ({self.compared} compared{refused})"

    def add(self, name: str, check: Callable[[], bool], dead: bool = False) -> None:
        """Run and count one check.

        It returns whether it compared values, and raises where it fails; a refusal of dead nodes is no failure.
        """
        self.total += 1
        try:
            self.compared += check()
        except Exception as error:  # every kind of failure is one line
            if dead and isinstance(error, AbsentError):
                self.refused += 1
                self.passed += 1
                return
            self.failures.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:250]}")
            return
        self.passed += 1


def shipped(group: str) -> Iterator[Case]:
    """Yield the models with nodes in a folder of onnx's test data."""
    for path in sorted((DATA / group).rglob("*.onnx")):
        model = onnx.load(path)
        if model.graph.node:
            types = {i.name: i.type for i in model.graph.input}
            given = [types[name] for name in types if name not in {t.name for t in model.graph.initializer}]
            files = [path.parent / "test_data_set_0" / f"input_{n}.pb" for n in range(len(given))]
            inputs = (
                [_loaded(f, t) for f, t in zip(files, given, strict=True)] if all(map(Path.exists, files)) else None
            )
            yield Case(f"{group}/{path.stem if group == 'light' else path.parent.name}", model, inputs)


def generated() -> Iterator[Case]:
    """Yield onnx's generated cases of single operators, and of the functions that these expand to."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        if case.model.graph.node:
            yield Case(f"node/{case.name}", case.model, case.data_sets[0][0] if case.data_sets else None)


def _loaded(path: Path, type_: onnx.TypeProto) -> Value:
    data = path.read_bytes()
    if type_.HasField("sequence_type"):
        return numpy_helper.to_list(SequenceProto.FromString(data))
    if type_.HasField("optional_type"):
        return numpy_helper.to_optional(OptionalProto.FromString(data))
    return numpy_helper.to_array(TensorProto.FromString(data))


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """Load a model into ONNX Runtime, without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def run(session: onnxruntime.InferenceSession, feeds: dict[str, Value]) -> dict[str, Value]:
    """Return the outputs by name."""
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()}), strict=True))


def feeds_of(session: onnxruntime.InferenceSession, case: Case) -> dict[str, Value]:
    """Return the inputs of a case by name, random ones where it has none."""
    wanted, random = session.get_inputs(), np.random.default_rng(0)
    if case.inputs is None:
        shapes = [[d if isinstance(d, int) else 2 for d in i.shape] for i in wanted]
        return {i.name: random.random(shape, np.float32) for i, shape in zip(wanted, shapes, strict=True)}
    return {i.name: feedable(value) for i, value in zip(wanted, case.inputs, strict=True)}


def feedable(value: Value) -> Value:
    """Return a value as ONNX Runtime takes it: an array, or an OrtValue for types that numpy does not have."""
    if isinstance(value, TensorProto):
        array = numpy_helper.to_array(value)
        if array.dtype.isbuiltin != 1:
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, value.data_type)
        return array
    return np.asarray(value) if isinstance(value, np.generic) else value


def equal(a: Value, b: Value) -> bool:
    """Return whether two values are equal to the bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape
        return same and (a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes())
    return type(a) is type(b) and a == b


def expected(case: Case) -> tuple[bool, dict[str, Value], dict[str, Value]]:
    """Return whether the raw model loads, its inputs, and its outputs; those are empty if two runs fail or differ."""
    loads, runs = False, list[dict[str, Value]]()
    with REFUSALS:
        session = session_of(case.model.SerializeToString())
        loads = True
        feeds = feeds_of(session, case)
        runs = [run(session, feeds), run(session_of(case.model.SerializeToString()), feeds)]
    if not runs:
        return loads, {}, {}
    first, second = runs
    return loads, feeds, first if all(equal(first[name], second[name]) for name in first) else {}


def by_pipeline(text: str, source: Path, target: Path) -> None:
    """Tag a model and cut its root out, in this process."""
    loaded = WorkingModel.read(source)
    Pipeline.parse(text).apply(loaded)
    write_model(loaded.proto, loaded.weights, target)


def by_command(text: str, source: Path, target: Path) -> None:
    """Tag a model and cut its root out by `mx tag` and `mx filter`."""
    command = ["tag"] if text == TAG else ["filter", "--scope", "."]
    done = subprocess.run([MX, *command, source, "-o", target], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MxError(done.stderr)


def check_whole(case: Case, folder: Path, step: Callable[[str, Path, Path], None]) -> bool:
    """Tag a model, cut its root out, and compare the outputs; return whether there were any to compare."""
    raw, tagged, root = (folder / f"{name}.onnx" for name in ("raw", "tagged", "root"))
    raw.write_bytes(case.model.SerializeToString())
    step(TAG, raw, tagged)
    step("filter{scope=.}", tagged, root)
    loads, feeds, outputs = expected(case)
    valid = is_valid(case.model)
    for path in (tagged, root):
        if valid:
            checker.check_model(onnx.load(path), full_check=True)
        if loads:
            session = session_of(path.read_bytes())
            results = run(session, feeds) if outputs else {}
            if not all(equal(outputs[name], results[name]) for name in outputs):
                raise ValueError(f"{path.stem} computes something else")
    return bool(outputs)


def is_valid(model: ModelProto) -> bool:
    """Return whether onnx's checker accepts a model."""
    with REFUSALS:
        checker.check_model(model, full_check=True)
        return True
    return False


def check_nodes(case: Case, count: Count) -> None:
    """Cut each node out of a model that loads, and compare its results."""
    loads, feeds, outputs = expected(case)
    if not loads:
        return
    valid = is_valid(case.model)
    values = inner_values(case.model, feeds) if outputs else {}
    tagged = ModelProto.FromString(case.model.SerializeToString())
    tagged.ir_version = max(tagged.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)
    for node in tagged.graph.node:
        mark(node, "rest")
    index = Graph(tagged)
    read = {index.names[v] for v, readers in enumerate(index.readers) if readers or v in index.outputs}
    for n, node in enumerate(tagged.graph.node):
        mark(node, "part")
        data = tagged.SerializeToString()
        count.add(
            f"{case.name} node {n} {node.op_type}",
            lambda data=data: check_cut(data, values, valid),
            read.isdisjoint(node.output),
        )
        mark(node, "rest")


def check_functions(case: Case, count: Count) -> None:
    """Fold the nodes of a model as one module, and as two that halve the list, and compare the outputs."""
    loads, feeds, outputs = expected(case)
    valid = is_valid(case.model)
    tagged = ModelProto.FromString(case.model.SerializeToString())
    tagged.ir_version = max(tagged.ir_version, keys.FIRST_IR_WITH_NODE_METADATA)
    for place, node in enumerate(tagged.graph.node):
        mark(node, "part" if 2 * place < len(tagged.graph.node) else "rest")
    for step in (Fold(each=(".",)), Fold(depth=1), Fold(each=(".",), nested=True)):
        count.add(f"{case.name} {step}", lambda step=step: check_fold(tagged, step, valid, loads, feeds, outputs))


def check_fold(
    tagged: ModelProto, step: Fold, valid: bool, loads: bool, feeds: dict[str, Value], outputs: dict[str, Value]
) -> bool:
    """Fold a model, compare its outputs, and unfold it; return whether there were outputs to compare."""
    folded = WorkingModel(ModelProto.FromString(tagged.SerializeToString()))
    with suppress(AbsentError):  # what can be no function is left
        step.apply(folded)
    if valid:
        checker.check_model(folded.proto, full_check=True)
    if loads:
        session = session_of(folded.proto.SerializeToString())
        results = run(session, feeds) if outputs else {}
        if not all(equal(outputs[name], results[name]) for name in outputs):
            raise ValueError("the folded model computes something else")
    ours = tuple(function.name for function in folded.proto.functions if function.domain == DOMAIN)
    if ours:
        Unfold(function=ours).apply(folded)
    if folded.proto != tagged:
        raise ValueError("the unfolded model is another")
    return bool(outputs)


def mark(node: NodeProto, scope: str) -> None:
    """Give a node a scope."""
    keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: f"/Whole/{scope}", keys.EVIDENCE: "name"})


def check_cut(data: bytes, values: dict[str, Value], valid: bool) -> bool:
    """Cut a node out and compare its results; return whether there were any to compare."""
    part = ModelProto.FromString(data)
    Filter(scope=("part",)).apply(WorkingModel(part))
    if valid and all(map(is_shaped, (*part.graph.input, *part.graph.output))):  # a rank that nobody knows stays out
        checker.check_model(part, full_check=True)
    session = session_of(part.SerializeToString())
    if not values or any(i.name not in values for i in session.get_inputs()):
        return False
    for name, result in run(session, values).items():
        if not equal(values[name], result) and not rounded(values[name], result):
            raise ValueError(f"{name} is something else than in the whole")
    return True


def rounded(a: Value, b: Value) -> bool:
    """Return whether float16 values differ by two roundings at most: ONNX Runtime rounds less between operators."""
    return a.dtype == b.dtype == np.float16 and np.allclose(a, b, 2**-9, 2**-9, equal_nan=True)


def inner_values(model: ModelProto, feeds: dict[str, Value]) -> dict[str, Value]:
    """Return the values of the main graph's tensors; empty where ONNX Runtime cannot return them."""
    probe = ModelProto.FromString(model.SerializeToString())
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(
        ValueInfoProto(name=o) for n in probe.graph.node for o in n.output if o and o not in known
    )
    with REFUSALS:
        return feeds | run(session_of(probe.SerializeToString()), feeds)
    return {}


def main(groups: Sequence[str]) -> int:
    """Run all groups, or the named ones; return the exit status."""
    failed = False
    for group in groups or (*SHIPPED, "node"):
        whole, nodes, functions = Count(), Count(), Count()
        for number, case in enumerate(generated() if group == "node" else shipped(group)):
            step = by_pipeline if number % STRIDE else by_command
            with tempfile.TemporaryDirectory() as folder:
                whole.add(case.name, lambda c=case, f=folder, s=step: check_whole(c, Path(f), s))
            check_nodes(case, nodes)
            check_functions(case, functions)
        print(f"{group}: {whole} models; {nodes} nodes; {functions} folded", flush=True)
        failures = [*whole.failures, *nodes.failures, *functions.failures]
        for line in failures:
            print(f"  {line}")
        failed |= bool(failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
