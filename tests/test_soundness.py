"""The line that every model crosses: what is not sound is refused there, with what and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from mxtools.errors import InputError
from mxtools.files.reading import read_model
from mxtools.files.soundness import require_sound
from tests.support.commands import Mx

FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


def rich() -> ModelProto:
    """Return a sound model with something in nearly every field that a model can have."""
    body = helper.make_graph([node("Neg", ["h"], ["n"], name="/a/Neg")], "then", [], [info("n", FLOAT, ["N", 4])])
    other = helper.make_graph([node("Abs", ["h"], ["m"], name="/a/Abs")], "else", [], [info("m", FLOAT, ["N", 4])])
    nodes = [
        node("Mul", ["x", "w"], ["h"], name="/a/Mul", doc_string="doc"),
        node("If", ["c"], ["i"], name="/a/If", then_branch=body, else_branch=other),
        node("f", ["i"], ["j"], name="/b/f", domain="own"),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((1, 4), np.float32), "k")),
        node("Add", ["j", "k"], ["y"], name="/b/Add"),
    ]
    nodes[0].metadata_props.add(key="note", value="text")
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    inputs = [info("x", FLOAT, ["N", 4]), info("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", FLOAT, ["N", 4])], [weight], doc_string="doc")
    graph.value_info.append(info("h", FLOAT, ["N", 4]))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "f", ["p"], ["q"], [node("Tanh", ["p"], ["q"], name="t")], imports)
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10, producer_name="p")
    model.metadata_props.add(key="note", value="text")
    return model


def texts_of(message: Message, place: str = "") -> list[tuple[str, bytes]]:
    """Return a model's bytes once for each of its texts, with that one made no UTF-8."""
    found = []
    for field, content in message.ListFields():
        is_list = not isinstance(content, Message | str | bytes | int | float)
        for number in range(len(content)) if is_list else (None,):
            here = f"{place}{field.name}" + ("" if number is None else f"[{number}]")
            item = content if number is None else content[number]
            if field.type == field.TYPE_MESSAGE:
                found += texts_of(item, f"{here}.")
            elif field.type == field.TYPE_STRING:
                found.append((here, item))
    return found


def _place(model: ModelProto, place: str) -> tuple[Message, str, int | None]:
    *path, last = place.split(".")
    message: Message = model
    for step in path:
        name, _, number = step.partition("[")
        message = getattr(message, name)[int(number[:-1])] if number else getattr(message, name)
    name, _, number = last.partition("[")
    return message, name, int(number[:-1]) if number else None


PLACES = [place for place, text in texts_of(rich()) if text]


@pytest.mark.parametrize("place", PLACES)
def test_text_that_is_no_utf8_is_refused(place: str) -> None:
    model = rich()
    message, name, number = _place(model, place)
    mark = "zz-mark-zz"
    if number is None:
        setattr(message, name, mark)
    else:
        getattr(message, name)[number] = mark
    data = model.SerializeToString().replace(mark.encode(), b"zz\xff\xfe\xe9--zz!")
    with pytest.raises(InputError) as refused:
        require_sound(ModelProto.FromString(data), "m", data)
    assert str(refused.value).startswith(f"m is not a valid ONNX model: {place} is not UTF-8")
    with pytest.raises(InputError):
        mxtools.from_proto(ModelProto.FromString(data))


def tensor(element: int = FLOAT, dims: tuple[int, ...] = (4,), **data: object) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=element, dims=dims, **data))

    return change


def attribute(**fields: object) -> Callable[[ModelProto], None]:
    return lambda model: model.graph.node[0].attribute.append(AttributeProto(name="odd", **fields))


def _loop(model: ModelProto) -> None:
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f", "own"


def _loop_of_two(model: ModelProto) -> None:
    second = model.functions.add()
    second.CopyFrom(model.functions[0])
    second.name = "g"
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "g", "own"
    second.node[0].op_type, second.node[0].domain = "f", "own"


def _element(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 1_000_000


def _deep_element(model: ModelProto) -> None:
    model.graph.input[0].type.sequence_type.elem_type.optional_type.elem_type.tensor_type.elem_type = -7


def _in_body(model: ModelProto) -> None:
    model.graph.node[1].attribute[0].g.node[0].attribute.append(
        helper.make_attribute("t", TensorProto(dims=[2]))
    )  # sorted by name


RAW = np.ones(4, np.float32).tobytes()
UNSOUND: dict[str, Callable[[ModelProto], object]] = {
    "tensor 'w' of the graph has dimensions [4], and its data": tensor(raw_data=RAW[:-1]),
    "tensor 'w' of the graph has dimensions [8], and its data": tensor(dims=(8,), raw_data=b""),
    "tensor 'w' of the graph has dimensions [3], and its data": tensor(dims=(3,), float_data=[1, 2]),
    "tensor 'w' of the graph has dimensions [2], and its data": tensor(TensorProto.COMPLEX64, (2,), float_data=[1, 2]),
    "tensor 'w' of the graph has dimensions [5], and its data": tensor(TensorProto.INT4, (5,), int32_data=[1, 2]),
    "tensor 'w' of the graph has dimensions [1], and its data": tensor(STRING, (1,), raw_data=b"text"),
    "tensor 'w' of the graph has dimensions [4611686018427387904, 8]": tensor(dims=(1 << 62, 8), raw_data=RAW),
    "tensor 'w' of the graph has dimensions [-4]": tensor(dims=(-4,), raw_data=RAW),
    "tensor 'w' of the graph has element type 0": tensor(0, raw_data=RAW),
    "tensor 'w' of the graph has element type 77": tensor(77, raw_data=RAW),
    "'x' of the graph has element type 1000000": _element,
    "'x' of the graph has element type -7": _deep_element,
    "tensor 'w' of the graph is a segment": tensor(raw_data=RAW, segment=TensorProto.Segment(begin=0)),
    "attribute 'odd' of Mul '/a/Mul' has no graph": attribute(type=AttributeProto.GRAPH),
    "attribute 'odd' of Mul '/a/Mul' has no sparse tensor": attribute(type=AttributeProto.SPARSE_TENSOR, i=3),
    "attribute 'odd' of Mul '/a/Mul' has a type that ONNX does not have": attribute(t=TensorProto()),
    "tensor '' of attribute 't' of Abs '/a/Abs' has element type 0": _in_body,
    "node '/a/Mul' of the graph has no operator": lambda model: model.graph.node[0].ClearField("op_type"),
    "version 2147483648 of the operators of 'ai.onnx'": lambda model: setattr(
        model.opset_import[0], "version", 1 << 31
    ),
    "version -1 of the operators of 'own'": lambda model: setattr(model.functions[0].opset_import[1], "version", -1),
    "IR version -3": lambda model: setattr(model, "ir_version", -3),
    "function 'f' calls itself": _loop,
    "calls itself, directly or through others": _loop_of_two,
    "two functions have the same domain and name": lambda model: model.functions.append(model.functions[0]),
    "a function without a name": lambda model: setattr(model.functions[0], "name", ""),
}


@pytest.mark.parametrize("said", UNSOUND)
def test_what_is_not_sound_is_refused(said: str, tmp_path: Path) -> None:
    model = rich()
    UNSOUND[said](model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"fix the program that made the file, or export again$") as refused:
        read_model(tmp_path / "m.onnx", "m.onnx")
    assert said in str(refused.value)


SOUND: dict[str, Callable[[ModelProto], object]] = {
    "as it is": lambda model: None,
    "a dimension of -1": lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -1),
    "no element": tensor(dims=(0, 7)),
    "texts": tensor(STRING, (2,), string_data=[b"\xff", b""]),
    "nibbles": tensor(TensorProto.UINT4, (3,), raw_data=b"\x21\x03"),
    "eight bits": tensor(TensorProto.FLOAT8E4M3FN, (2,), int32_data=[1, 2]),
    "complex": tensor(TensorProto.COMPLEX128, (1,), double_data=[1, 2]),
    "a nod that ONNX does not have": lambda model: setattr(model.graph.node[0], "op_type", "Nod"),
    "an attribute of zero": attribute(type=AttributeProto.INT),
    "an attribute of a function's": lambda model: (
        model.functions[0]
        .node[0]
        .attribute.append(AttributeProto(name="a", type=AttributeProto.TENSOR, ref_attr_name="b"))
    ),
    "a custom domain of version 0": lambda model: setattr(model.opset_import[1], "version", 0),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_sound_is_read(case: str, tmp_path: Path) -> None:
    model = rich()
    SOUND[case](model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_model(tmp_path / "m.onnx", "m.onnx")[0] == model


@pytest.mark.parametrize("change", [1, -1])
def test_weights_that_stay_in_the_file_match_their_dimensions(change: int, tmp_path: Path) -> None:
    model = rich()
    large = numpy_helper.from_array(np.ones((500, 4), np.float32), "w")
    large.raw_data = bytes(len(large.raw_data) + change)
    model.graph.initializer[0].CopyFrom(large)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"tensor 'w' of the graph has dimensions \[500, 4\]"):
        read_model(tmp_path / "m.onnx", "m.onnx")


def test_weights_beside_the_file_match_their_dimensions(tmp_path: Path) -> None:
    model = rich()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    (length,) = (entry for entry in model.graph.initializer[0].external_data if entry.key == "length")
    length.value = "12"
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(InputError, match="'w' has 12 bytes of external data, but its dimensions need 16"):
        mxtools.load(tmp_path / "short.onnx")
    model.graph.initializer[0].external_data.remove(length)  # what is not said follows from type and dimensions
    (tmp_path / "m.data").write_bytes(RAW + bytes(100))
    onnx.save(model, tmp_path / "none.onnx")
    loaded = mxtools.load(tmp_path / "none.onnx")
    assert bytes(loaded.weights.data(loaded.proto.graph.initializer[0])) == RAW


def doubling(levels: int) -> ModelProto:
    """Return a model of functions, each of which calls the next one twice."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "f0", ["a"], ["c"], [node("Relu", ["a"], ["c"])], imports)]
    for level in range(1, levels):
        inner = f"f{level - 1}"
        nodes = [node(inner, ["a"], ["b"], domain="own"), node(inner, ["b"], ["c"], domain="own")]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["c"], nodes, imports))
    last = node(f"f{levels - 1}", ["x"], ["y"], domain="own")
    graph = helper.make_graph([last], "g", [info("x", FLOAT, [4])], [info("y", FLOAT, [4])])
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)


def test_functions_that_would_expand_without_measure_are_refused(tmp_path: Path, mx: Mx) -> None:
    mxtools.from_proto(doubling(12)).tag()
    onnx.save(doubling(64), tmp_path / "m.onnx")
    done = mx("tree", "m.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"the limit of 1,000,000 nodes: if the file is yours, raise all limits: --limits " in done.stderr
    with pytest.raises(InputError), mxtools.limits(1.5):
        mxtools.from_proto(doubling(21))
    with mxtools.limits(4):
        mxtools.from_proto(doubling(21))
