"""Plant faults into exported models, and see whether `mx verify --against` names the module that has the fault.

    python benchmarks/planted_faults.py [ZOO.py] [--models NAME,…] [--exporter NAME]

ZOO.py holds a dictionary `zoo`, or functions, of callables that give (module, inputs); by default it is
fixtures/models.py. Each model is exported and tagged. Then one fault after the other is written into a copy: a changed
weight, a transposed one, a NaN, another attribute, a wrong epsilon, a wrong axis, a dropped activation, a float16
overflow, a mask that one call of many lacks. A fault counts only if the model's results change. The module is named if
it, and only it, is called wrong on its own; with `--bisect` if it is the smallest one that is wrong.

Unharmed pairs are the same model at other levels of ONNX Runtime, after onnxslim, and with another operator set: no
module may be called wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter

from benchmarks.measuring import MX

MODELS = "bert,llama,resnet,convnet,repeated,outputs"
SCOPE = "pkg.mxtools.scope"
ACTIVATIONS = {"Relu", "Gelu", "Tanh", "Sigmoid", "Erf", "LeakyRelu", "HardSwish", "Silu"}
LEAST_CHANGE = 1e-4
"""Relative change of a result from which on a fault is one."""
LARGE = 1e5
"""What values are multiplied by so that float16 overflows."""

Fault = Callable[[ModelProto, NodeProto], bool]


def main() -> None:
    """Plant all faults, and print a line for each and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", nargs="?", default="fixtures/models.py")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--exporter", default="auto")
    given = parser.parse_args()
    planted = {"alone": [], "bisect": []}  # type: dict[str, list[bool]]
    unharmed: list[bool] = []
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            good = exported(f"{given.zoo}:{name}", Path(folder), given.exporter)
            for kind, scope, bad in faults(good):
                found = {"alone": alone(bad, good), "bisect": bisected(bad, good)}
                for way, scopes in found.items():
                    planted[way].append(scopes == [scope])
                said = "; ".join(f"{way} {', '.join(scopes) or 'none'}" for way, scopes in found.items())
                print(f"{name:12} {kind:12} {scope}: {said}", flush=True)
            for kind, other, options in equals(good):
                scopes = [*alone(other, good, *options), *bisected(other, good, *options)]
                unharmed.append(not scopes)
                print(f"{name:12} {kind:12} unharmed: {', '.join(scopes) or 'none'}", flush=True)
    for way, named in planted.items():
        print(f"{way}: {sum(named)} of {len(named)} planted faults are named")
    print(f"unharmed: none is named in {sum(unharmed)} of {len(unharmed)} pairs")


def exported(spec: str, folder: Path, exporter: str) -> Path:
    """Return a tagged export of a model."""
    trace, tagged = folder / "trace.json", folder / "good.onnx"
    mx("trace", spec, "-o", trace)
    mx("export", spec, "--static", "--exporter", exporter, "-o", folder / "raw.onnx")
    mx("tag", folder / "raw.onnx", "--trace", trace, "-o", tagged)
    return tagged


def mx(*line: object, statuses: tuple[int, ...] = (0,)) -> str:
    """Run a command; return its stdout."""
    done = subprocess.run([MX, *map(str, line)], capture_output=True, text=True, check=False)
    if done.returncode not in statuses:
        raise SystemExit(f"failed with {done.returncode}: mx {' '.join(map(str, line))}\n{done.stderr}")
    return done.stdout


def alone(bad: Path, good: Path, *options: str) -> list[str]:
    """Return the modules that are wrong when they run alone."""
    report = json.loads(mx("verify", bad, "--against", good, "--isolate", "--json", *options, statuses=(0, 1)))
    return list(report["culprits"])


def bisected(bad: Path, good: Path, *options: str) -> list[str]:
    """Return the smallest module that is wrong."""
    found = json.loads(mx("verify", bad, "--against", good, "--bisect", "--json", *options, statuses=(0, 1)))["wrong"]
    return [found] if found else []


def faults(good: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the kinds of faults that a model can have, with the module that has it, and the model with the fault."""
    model = onnx.load(good)
    wanted = results(model)
    for number, (kind, plant) in enumerate(FAULTS.items()):
        places = [n for n, node in enumerate(model.graph.node) if scope_of(node) not in ("", ".")]
        random.Random(number).shuffle(places)
        for place in places:
            bad = ModelProto.FromString(model.SerializeToString())
            if plant(bad, bad.graph.node[place]) and changes(wanted, bad):
                file = good.with_name(f"{kind.replace(' ', '-')}.onnx")
                onnx.save(bad, file)
                yield kind, scope_of(model.graph.node[place]), file
                break


def equals(good: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Yield models that compute the same, and the options to compare them with."""
    for level in ("extended", "all"):
        yield level, good, ["--level", level]
    slim = good.with_name("slim.onnx")
    mx("wrap", good, "-o", slim, "--", Path(MX).with_name("onnxslim"), "{in}", "{out}")
    yield "onnxslim", slim, []
    newer = good.with_name("opset.onnx")
    onnx.save(version_converter.convert_version(onnx.load(good), 21), newer)
    yield "opset 21", newer, []


def results(model: ModelProto) -> list[np.ndarray]:
    """Return the results of a model on fixed inputs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        is_float = "float" in value.type
        feeds[value.name] = rng.standard_normal(shape).astype("f4") if is_float else np.ones(shape, "i8")
    return [np.asarray(array) for array in session.run(None, feeds)]


def changes(wanted: list[np.ndarray], bad: ModelProto) -> bool:
    """Return whether a model runs and returns something else."""
    try:
        found = results(bad)
    except Exception:  # ONNX Runtime's exceptions have no class in common
        return False
    for a, b in zip(found, wanted, strict=True):
        if a.shape == b.shape and a.dtype.kind == "f":
            apart = np.abs(a - b).max(initial=0)
            if not apart <= LEAST_CHANGE * np.abs(b).max(initial=0):
                return True
    return False


def scope_of(node: NodeProto) -> str:
    """Return the scope of a node."""
    return next((prop.value for prop in node.metadata_props if prop.key == SCOPE), "")


def own_weight(model: ModelProto, node: NodeProto, rank: int) -> onnx.TensorProto | None:
    """Return a weight that only this node reads."""
    readers = [name for other in model.graph.node for name in other.input]
    weights = {w.name: w for w in model.graph.initializer}
    found = (weights[name] for name in node.input if name in weights and readers.count(name) == 1)
    return next((w for w in found if len(w.dims) >= rank and w.data_type == onnx.TensorProto.FLOAT), None)


def with_weight(rank: int, change: Callable[[np.ndarray], np.ndarray | None]) -> Fault:
    """Return what changes a weight of a node."""

    def plant(model: ModelProto, node: NodeProto) -> bool:
        weight = own_weight(model, node, rank)
        new = None if weight is None else change(numpy_helper.to_array(weight).copy())
        if weight is None or new is None:
            return False
        weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), weight.name))
        return True

    return plant


def one_nan(weight: np.ndarray) -> np.ndarray:
    """Return a weight with a NaN."""
    weight.flat[weight.size // 2] = np.nan
    return weight


def transposed(weight: np.ndarray) -> np.ndarray | None:
    """Return a square matrix transposed, None for others."""
    return weight.T if weight.ndim == 2 and weight.shape[0] == weight.shape[1] else None


def with_attribute(name: str, change: Callable[[float], float], *operators: str) -> Fault:
    """Return what changes an attribute of a node, which has it."""

    def plant(_: ModelProto, node: NodeProto) -> bool:
        for attribute in node.attribute:
            if attribute.name == name and (not operators or node.op_type in operators):
                value = change(helper.get_attribute_value(attribute))
                attribute.CopyFrom(helper.make_attribute(name, value))
                return True
        return False

    return plant


def other_axis(_: ModelProto, node: NodeProto) -> bool:
    """Let a Softmax, or a reduction, work along another axis."""
    if node.op_type not in ("Softmax", "LogSoftmax"):
        return False
    kept = [attribute for attribute in node.attribute if attribute.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axis", -2)])
    return True


def without_activation(_: ModelProto, node: NodeProto) -> bool:
    """Let an activation return what it is given."""
    if node.op_type not in ACTIVATIONS:
        return False
    node.op_type, node.domain = "Identity", ""
    del node.attribute[:]
    return True


def without_mask(model: ModelProto, node: NodeProto) -> bool:
    """Let one call add no mask, or anything else, to its scores."""
    readers = [other.op_type for other in model.graph.node if node.output[0] in other.input]
    if node.op_type != "Add" or readers != ["Softmax"]:
        return False
    node.op_type = "Sub"
    return True


def overflowing(model: ModelProto, node: NodeProto) -> bool:
    """Let a product overflow, as it does in float16."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return False
    name, place = node.output[0], [*model.graph.node].index(node)
    node.output[0] = f"{name}_exact"
    large = numpy_helper.from_array(np.float32(LARGE), f"{name}_large")
    model.graph.initializer.append(large)
    steps = [
        helper.make_node("Mul", [f"{name}_exact", large.name], [f"{name}_scaled"]),
        helper.make_node("Cast", [f"{name}_scaled"], [f"{name}_half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{name}_half"], [f"{name}_single"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Div", [f"{name}_single", large.name], [name]),
    ]
    for offset, step in enumerate(steps, 1):
        step.metadata_props.extend(node.metadata_props)
        model.graph.node.insert(place + offset, step)
    return True


FAULTS: dict[str, Fault] = {
    "weight": with_weight(2, lambda weight: weight * np.float32(1.5)),
    "transposed": with_weight(2, transposed),
    "nan": with_weight(1, one_nan),
    "attribute": with_attribute("alpha", lambda alpha: alpha * 0.9),
    "epsilon": with_attribute("epsilon", lambda _: 0.1),
    "axis": other_axis,
    "activation": without_activation,
    "overflow": overflowing,
    "mask": without_mask,
}
"""The kinds of faults."""

if __name__ == "__main__":
    sys.exit(main())
