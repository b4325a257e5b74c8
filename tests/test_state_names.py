"""Without a trace, a name of an initializer names a module only where the rest of the file agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Evidence
from mxtools.strategies import table
from tests.support.commands import Mx
from tests.support.shared_models import Build

OPERATORS = ("Add", "Mul", "Sub", "Div")


def chain(*weights: str, operators: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Return a chain of nodes, one for each weight, that a tool made which writes no modules into names of nodes."""
    values = ["x", *(f"t{number}" for number in range(1, len(weights))), "y"]
    made = [
        helper.make_node(
            operators[at] if operators else OPERATORS[at % len(OPERATORS)],
            [values[at], weight],
            [values[at + 1]],
            name=nodes[at] if nodes else f"node_{at}",
        )
        for at, weight in enumerate(weights)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    arrays = [numpy_helper.from_array(np.array([at, at + 0.5], np.float32), name) for at, name in enumerate(weights)]
    graph = helper.make_graph(made, "g", [x], [y], arrays)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def tagged(proto: onnx.ModelProto, strategy: str = "auto") -> WorkingModel:
    model = WorkingModel(onnx.ModelProto.FromString(proto.SerializeToString()))
    table.get(strategy).passes().run(model)
    return model


def placed(proto: onnx.ModelProto, strategy: str = "auto") -> list[str]:
    """Return the scope of each node that has one by a parameter, else its evidence in brackets."""
    annotations = tagged(proto, strategy).annotations
    scopes = annotations.hierarchy.scopes
    return [
        scopes[call] if word is Evidence.PARAMETER and call is not None else f"({word})"
        for call, word in zip(annotations.call, annotations.evidence, strict=True)
    ]


COUNTERS = {
    "numbers of constants": chain("const.5", "const.7", "const.12", "const.13"),
    "Paddle's layers": chain("linear_0.w_0", "linear_0.b_0", "linear_1.w_0", "linear_1.b_0"),
    "Paddle's norms": chain("layer_norm_0.w_0", "layer_norm_0.b_0", "batch_norm_1.w_1", "batch_norm_1.w_2"),
    "Paddle's helpers": chain("helper.constant.0", "helper.constant.1", "helper.concat.0", "helper.concat.1"),
    "Paddle's operators": chain("p2o.pd_op.full.0.0", "p2o.pd_op.full.1.0", "p2o.pd_op.x", "p2o.x"),
    "all of them": chain("const.5", "linear_0.w_0", "helper.constant.0", "p2o.x", "p2o.pd_op.add.0", "linear_1.w_0"),
    "numbers alone": chain("0.out", "1.out", operators=("Add", "Add")),
    "numbers of nodes, which do different things": chain("node.0.value", "node.1.value"),
}


@pytest.mark.parametrize("name", COUNTERS)
def test_names_that_exporters_count_are_no_modules(name: str) -> None:
    model = tagged(COUNTERS[name])
    assert Evidence.PARAMETER not in model.annotations.evidence
    assert {model.annotations.hierarchy.scopes[call] for call in model.annotations.call if call is not None} == {"."}


@pytest.mark.parametrize("name", COUNTERS)
def test_nor_are_they_beside_modules_that_names_of_nodes_tell_of(name: str) -> None:
    proto = COUNTERS[name]
    known = onnx.ModelProto.FromString(proto.SerializeToString())
    known.graph.node.append(helper.make_node("Neg", ["y"], ["z"], name="/encoder/layer.0/Neg"))
    del known.graph.output[:]
    known.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]))
    model = tagged(known)
    assert Evidence.PARAMETER not in model.annotations.evidence
    assert set(model.annotations.hierarchy.scopes) == {".", "encoder", "encoder.layer.0"}


def test_a_name_counts_inside_modules_that_names_of_nodes_tell_of() -> None:
    weights = ("encoder.layer.0.bias", "encoder.layer.0.norm.weight", "encoder.layer.1.bias", "decoder.bias")
    names = ("", "node_1", "/encoder/layer.0/Neg", "node_3")
    # the first node says nothing itself; `encoder` is around layer 1, of which the file does not tell
    assert placed(chain(*weights, nodes=names)) == [
        "encoder.layer.0",
        "encoder.layer.0.norm",
        f"({Evidence.NAME})",
        f"({Evidence.DATAFLOW})",
    ]


STATE = ("encoder.layer.0.query.bias", "encoder.layer.1.query.bias", "encoder.norm.weight", "head.bias", "const.5")


def test_repeated_modules_make_all_names_those_of_a_state_dict() -> None:
    found = placed(chain(*STATE, operators=("Add", "Add", "Mul", "Add", "Mul")))
    assert found[:4] == ["encoder.layer.0.query", "encoder.layer.1.query", "encoder.norm", "head"]
    assert found[4] in (f"({Evidence.DATAFLOW})", f"({Evidence.ROOT})")


@pytest.mark.parametrize(
    ("weights", "operators"),
    [
        (("layer.0.query.bias", "layer.1.key.bias"), ("Add", "Add")),
        (("layer.0.query.bias", "layer.1.query.scale"), ("Add", "Add")),
        (("layer.0.query.bias", "layer.1.query.bias"), ("Add", "Mul")),
        (("layer.0.query.bias", "stage.1.query.bias"), ("Add", "Add")),
    ],
    ids=["other modules", "other parameters", "other operators", "two differences"],
)
def test_modules_that_differ_in_more_than_a_number_repeat_nothing(
    weights: tuple[str, ...], operators: tuple[str, ...]
) -> None:
    assert set(placed(chain(*weights, operators=operators))) <= {f"({Evidence.DATAFLOW})", f"({Evidence.ROOT})"}


def test_usage_takes_names_at_their_word() -> None:
    assert placed(COUNTERS["Paddle's layers"], "usage") == ["linear_0", "linear_0", "linear_1", "linear_1"]
    assert "parameter" not in str(placed(chain("plain", "names"), "usage"))


@pytest.mark.parametrize(
    ("numbers", "is_known"),
    [
        pytest.param(np.zeros(99, np.float32), False, id="zeros"),
        pytest.param(np.zeros(99, np.float16), False, id="zeros of half precision"),
        pytest.param(np.array([*[0.0] * 98, -0.0], np.float32), False, id="zeros of both signs"),
        pytest.param(np.array([*[0.0] * 98, 1.0], np.float32), True, id="another one at the end"),
        pytest.param(np.arange(99, dtype=np.float16), True, id="others of half precision"),
    ],
)
def test_a_weight_of_equal_numbers_does_not_say_whose_its_readers_are(numbers: np.ndarray, is_known: bool) -> None:
    """Exporters keep only one of several biases of zeros."""
    proto = chain("enc.norm.bias", "head.norm.bias")
    proto.graph.node[1].input[1] = "enc.norm.bias"
    del proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(numbers, "enc.norm.bias"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.CopyFrom(helper.make_tensor_type_proto(proto.graph.initializer[0].data_type, numbers.shape))
    assert placed(proto, "usage") == (["enc.norm", "enc.norm"] if is_known else ["(dataflow)", "(dataflow)"])


def test_names_that_are_listed_count(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("linear_0.w_0\nlinear_1.w_0\n")
    pipeline = f"project-parameters{{names={tmp_path / 'names.txt'}}}"
    done = mx("run", "-p", pipeline, stdin=COUNTERS["Paddle's layers"].SerializeToString())
    assert done.returncode == 0, done.stderr
    written = [keys.props(node) for node in onnx.load_from_string(done.stdout).graph.node]
    scopes = [entries[keys.SCOPE] for entries in written if entries.get(keys.EVIDENCE) == "parameter"]
    assert scopes == ["linear_0", "linear_1"]


def unnamed(proto: onnx.ModelProto, only: Callable[[onnx.NodeProto], bool]) -> onnx.ModelProto:
    """Return an export in which some nodes have numbers for names, and no metadata."""
    made = onnx.ModelProto.FromString(proto.SerializeToString())
    for number, node in enumerate(made.graph.node):
        if only(node):
            node.name = f"{node.op_type}_{number}"
            del node.metadata_props[:]
    return made


def modules_by_parameters(model: WorkingModel) -> set[str]:
    annotations = model.annotations
    return {
        annotations.hierarchy.scopes[call]
        for call, word in zip(annotations.call, annotations.evidence, strict=True)
        if word is Evidence.PARAMETER and call is not None
    }


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("rest", ["nothing", "the other nodes"])
def test_parameters_of_a_real_export_name_its_modules(built: Build, exporter: str, rest: str) -> None:
    """Old versions of torch wrote no scopes at all; what optimisers make of some nodes has none."""
    folder = built("trained", exporter)
    raw = onnx.load(folder / "raw.onnx")
    weights = {tensor.name for tensor in raw.graph.initializer}
    model = tagged(unnamed(raw, lambda node: rest == "nothing" or not weights.isdisjoint(node.input)))
    modules = set(WorkingModel.read(folder / "tagged.onnx").annotations.hierarchy.scopes)
    found = modules_by_parameters(model)
    assert "encoder.layer.1.attention.self.query" in found
    assert len(found) >= 10
    assert found <= modules
