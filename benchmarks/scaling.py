"""Measure how time grows with the size of a graph.

The passes of `mx tag` run over 10 000 and 100 000 generated nodes, beside a bare loop over the nodes, which reads their
inputs and outputs and writes three metadata entries. The goal is three times the loop, and 10.5 times as long for ten
times the nodes. Neither is met. A fifth of the time is ONNX's inference of shapes, which this model lacks; then the
passes write the same entries as the loop, and also read names, weights and the trace, and index the graph. And the loop
itself takes 10 to 12 times as long, since the larger graph does not fit into the processor's caches. Exit status 1 when
the passes take more than four times as long as the loop, or more than twelve times as long for ten times the nodes.

`mx split` into 500 and 2000 parts: status 1 above 4.6 times. A plan of eight parts of 5000 and 50 000 nodes: status 1
above 13 times. The rules of `mx validate` over 20 000 and 200 000 nodes: status 1 above 11 times, without the time that
ONNX Runtime takes to load the model, which grows faster and is shown.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper

from mxtools.graph.shapes import inferred_infos
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.split import manifest
from mxtools.split.division.budget import Budget
from mxtools.split.division.loads import Measure
from mxtools.split.parts import split
from mxtools.split.planning import planned
from mxtools.strategies import table
from mxtools.traces.sidecar import Call, Sidecar, TracedModel, TracedModule, TracedTensor, Weight
from mxtools.validate.findings import validate

ROUNDS = 5
PER_LAYER = 10


def tensor(number: int) -> TracedTensor:
    return TracedTensor(name="x", id=number, shape=(1, 8), dtype="float32")


def generated(count: int) -> tuple[ModelProto, Sidecar]:
    """Return a graph of layers of ten nodes, with names like TorchScript's, and its trace."""
    nodes, layers = [], count // PER_LAYER
    calls = [Call(scope=".", tag="/Net", module=".", inputs=(tensor(0),), outputs=(tensor(layers),))]
    modules = [TracedModule(path=".", class_name="Net", qualified_class="Net")]
    weights = []
    for layer in range(layers):
        scope = f"layers.{layer}"
        for step in range(PER_LAYER):
            place = f"/{scope}/Op_{step}" if step % 4 != 3 else f"Identity_{layer}_{step}"
            before = f"t{layer}_{step - 1}" if step else f"t{layer - 1}_{PER_LAYER - 1}" if layer else "x"
            reads = [before, f"{scope}.w"] if step == 0 else [before]
            nodes.append(helper.make_node("Add" if step == 0 else "Relu", reads, [f"t{layer}_{step}"], name=place))
        weights.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), f"{scope}.w"))
        weight = Weight(name="w", kind="parameter", shape=(8,), dtype="float32")
        modules.append(TracedModule(path=scope, class_name="Layer", qualified_class="Layer", weights=(weight,)))
        ends = {"inputs": (tensor(layer),), "outputs": (tensor(layer + 1),)}
        calls.append(Call(scope=scope, tag=f"/Net/Layer.{layer}", module=scope, parent=0, **ends))
    value = helper.make_tensor_value_info
    last = nodes[-1].output[0]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 8])], [value(last, 1, [1, 8])], weights)
    model = TracedModel(class_name="Net", qualified_class="Net", spec="generated")
    return helper.make_model(graph), Sidecar(producer={}, model=model, modules=tuple(modules), calls=tuple(calls))


def bare(model: ModelProto) -> None:
    """Do the least that any tagging must do."""
    for node in model.graph.node:
        list(node.input), list(node.output)
        for key in ("a", "b", "c"):
            node.metadata_props.add(key=key, value="encoder.layer.0")


def chain(nodes: int, per_scope: int) -> ModelProto:
    """Return a tagged chain of nodes, so many of them in each scope."""
    made = []
    for number in range(nodes):
        scope, before = f"s{number // per_scope}", f"r{number - 1}" if number else "x"
        made.append(helper.make_node("Relu", [before], [f"r{number}"], name=f"/{scope}/Relu_{number}"))
        keys.replace_props(
            made[-1], keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: f"/M/{scope}", keys.EVIDENCE: "name"}
        )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(made, "g", [value("x", 1, [4])], [value(made[-1].output[0], 1, [4])])
    return helper.make_model(graph, ir_version=10)


def splitting(parts: int) -> float:
    """Return the seconds that a split of a chain takes, with writing it."""
    model = WorkingModel(chain(parts, 1))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        manifest.write(model, split(model, (), depth=1), Path(folder) / "parts", verify=False)
        return time.process_time() - start  # before the folder is removed


def dividing(nodes: int) -> float:
    """Return the seconds that it takes to plan a split of a chain into eight parts."""
    model = WorkingModel(chain(nodes, 4))
    start = time.process_time()
    planned(model, Budget(8, balance=Measure.ACTIVATIONS))
    return time.process_time() - start


def validating(nodes: int) -> float:
    """Return the seconds that `mx validate` takes, ONNX Runtime's included."""
    model = WorkingModel(chain(nodes, 10))
    start = time.process_time()
    validate(model, Path())
    return time.process_time() - start


def growth_of_commands() -> bool:
    """Measure and print `split`, by modules and by a budget, and `validate`; return whether one grows too fast."""
    few, many = (min(splitting(parts) for _ in range(ROUNDS)) for parts in (500, 2000))
    print(f"split: {few:.2f} s for 500 parts, {many:.2f} s for 2000: {many / few:.1f} (limit 4.6)")
    short, long = dividing(5_000), dividing(50_000)
    print(f"split by a budget: {short:.2f} s for 5000 nodes, {long:.2f} s for 50000: {long / short:.1f} (limit 13)")
    small, large = validating(20_000), validating(200_000)
    print(f"validate: {small:.2f} s for 20000 nodes, {large:.2f} s for 200000: {large / small:.1f} (limit 11)")
    return many > 4.6 * few or long > 13 * short or large > 11 * small


def main() -> int:
    """Measure and print; return the exit status."""
    gc.disable()  # as the command does
    seconds = {}
    for count in (10_000, 100_000):
        data, sidecar = generated(count)
        text = data.SerializeToString()
        ours, inference, loop = (
            min(times) for times in zip(*(passing(text, sidecar) for _ in range(ROUNDS)), strict=True)
        )
        seconds[count] = ours, loop
        print(
            f"{count} nodes: {ours:.2f} s, of which ONNX infers shapes {inference:.2f} s, bare loop {loop:.2f} s: "
            f"{ours / loop:.2f} times (limit 4, goal 3), {(ours - inference) / loop:.2f} without inference"
        )
    growth, alone = (seconds[100_000][which] / seconds[10_000][which] for which in (0, 1))
    print(f"ten times the nodes: {growth:.1f} times the time (limit 12, goal 10.5), the bare loop {alone:.1f} times")
    return int(growth_of_commands() or growth > 12 or seconds[100_000][0] > 4 * seconds[100_000][1])


def passing(text: bytes, sidecar: Sidecar) -> tuple[float, float, float]:
    """Return the seconds of the passes, of the inference of shapes among them, and of the bare loop."""
    times = []
    for work in (
        lambda proto: table.get("auto").passes().apply(WorkingModel(proto, sidecar=sidecar)),
        lambda proto: inferred_infos(proto, propagating=False),
        bare,
    ):
        proto = ModelProto.FromString(text)
        gc.collect()
        start = time.process_time()
        work(proto)
        times.append(time.process_time() - start)
    return times[0], times[1], times[2]


if __name__ == "__main__":
    sys.exit(main())
