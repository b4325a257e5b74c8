"""The five-node examples that the hard algorithms begin with, run: what the comments there say is so.

Graphs are golden texts: `#@ SCOPE` behind a node is the scope that it has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mxtools.comparison.contents import Contents
from mxtools.evidence.between_values import annotate_by_values
from mxtools.evidence.calls.placement import assign
from mxtools.evidence.calls.program_order import program_order
from mxtools.evidence.corrections.arguments import move_arguments_out
from mxtools.evidence.corrections.fused import assign_fused
from mxtools.evidence.corrections.shared import hoist_shared
from mxtools.evidence.data_flow import resolve
from mxtools.matching.after_tool import annotate_by_previous, assign_fused_previous
from mxtools.matching.earlier_model import EarlierModelMatch
from mxtools.matching.equal_values import equal_values, summary_of
from mxtools.matching.surviving_names import SurvivingNames
from mxtools.matching.weight_matches import WeightMatches
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile.attribution import Attribution
from mxtools.runtime.tolerances import Tolerance
from mxtools.scopes.annotations import Evidence
from mxtools.traces.values import Values
from mxtools.verify.output_matches import OutputMatches
from tests.support import golden_text
from tests.support.small_traces import trace_of

Array = NDArray[np.float32]

_RANDOM = np.random.default_rng(0)


def graph(text: str, weights: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """Return the model of a golden text, with `weights` as its initializers."""
    model = golden_text.read(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in (weights or {}).items())
    return model


def values(arrays: Mapping[str, Array]) -> Values:
    return Values(arrays.keys(), arrays.__getitem__)


def scopes(model: WorkingModel) -> dict[str, str]:
    """Return the scope of each node by its first output, empty where it has none."""
    annotations = model.annotations
    names = annotations.hierarchy.scopes
    return {
        node.output[0]: "" if call is None else names[call]
        for node, call in zip(annotations.graph.nodes, annotations.call, strict=True)
    }


def merged(model: WorkingModel) -> dict[str, list[str]]:
    """Return the scopes of the nodes that do the work of several modules, by first output."""
    annotations = model.annotations
    names = annotations.hierarchy.scopes
    return {annotations.graph.nodes[n].output[0]: [names[c] for c in calls] for n, calls in annotations.merged.items()}


def random(*dims: int) -> Array:
    return _RANDOM.standard_normal(dims).astype(np.float32)


def test_calls_of_one_module_are_told_apart_by_order() -> None:
    nodes = "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) c = Relu(b) d = Abs(c) y = Relu(d) }"
    sidecar = trace_of(
        """
        . Net x:2 -> y:2
        pre Pre x:2 -> a:2
        block Block a:2 -> c:2
        block.abs Abs a:2 -> b:2
        block@1 Block c:2 -> y:2
        block@1.abs Abs c:2 -> d:2
        """
    )
    model = WorkingModel(graph(nodes), sidecar=sidecar)
    pre, block, block_abs = (1,), (2, 4), (3, 5)
    assign(model.annotations, [(pre, [0]), (block_abs, [1, 3]), (block, [2, 4])], Evidence.METADATA)
    assert scopes(model) == {"a": "pre", "b": "block.abs", "c": "block", "d": "block@1.abs", "y": "block@1"}


def test_calls_are_told_apart_where_a_node_was_dropped() -> None:
    nodes = "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Relu(b) }"
    sidecar = trace_of(
        """
        . Net x:2 -> y:2
        block Block x:2 -> b:2
        block.a A x:2 -> a:2
        block.b B a:2 -> b:2
        block@1 Block b:2 -> y:2
        block@1.a A b:2 -> y:2
        block@1.b B y:2 -> y:2
        """
    )
    model = WorkingModel(graph(nodes), sidecar=sidecar)
    block_a, block_b = (2, 5), (3, 6)
    assign(model.annotations, [(block_a, [0, 2]), (block_b, [1])], Evidence.METADATA)
    assert scopes(model) == {"a": "block.a", "b": "block.b", "y": "block@1.a"}


def test_calls_are_told_apart_though_the_nodes_were_sorted_anew() -> None:
    nodes = """
        g (float[2] x, float[2] z) => (float[2] y) {
            embed_1 = Neg(z) embed = Neg(x)
            cell = Sub(embed, embed)
            cell_1 = Sub(cell, embed_1)
            y = Exp(cell_1)
        }"""
    sidecar = trace_of(
        """
        . Net x:2 z:2 -> y:2
        embed Embed x:2 -> a:2
        cell Cell a:2 -> b:2
        embed@1 Embed z:2 -> c:2
        cell@1 Cell b:2 c:2 -> d:2
        out Out d:2 -> y:2
        """
    )
    model = WorkingModel(graph(nodes), sidecar=sidecar)
    embed, cell, out = (1, 3), (2, 4), (5,)
    assign(model.annotations, [(embed, [0, 1]), (cell, [2, 3]), (out, [4])], Evidence.METADATA)
    assert scopes(model) == {"embed_1": "embed@1", "embed": "embed", "cell": "cell", "cell_1": "cell@1", "y": "out"}
    # `embed_1` comes as late as it can
    assert program_order(model.annotations.graph, [(embed, 0), (embed, 1)], [4]) == [1, 2, 0, 3, 4]
    assert program_order(model.annotations.graph, [(cell, 2), (cell, 3)], [4]) is None


def test_data_flow() -> None:
    model = WorkingModel(
        graph(
            """
            g (float[2] x) => (float[2] y) {
                s = Shape(x)
                t = ConstantOfShape(s)
                a = Add(x, t)    #@ enc.a
                b = Mul(a, t)    #@ enc.b
                y = Identity(b)
            }"""
        )
    )
    resolve(model.annotations)
    assert scopes(model) == {"s": "enc", "t": "enc", "a": "enc.a", "b": "enc.b", "y": "."}


def test_what_lies_between_two_nodes_of_a_call_ran_in_it() -> None:
    text = """
        g (float[2] x) => (float[2] y, float[2] z) {
            a = MatMul(x, w)      #@ step
            b, c = Split(a)
            y = Softmax(b)        #@ step
            z = Mul(y, c)         #@ step@1
        }"""
    sidecar = trace_of(". Net x:2 -> z:2\nstep Step x:2 -> y:2\nstep@1 Step y:2 -> z:2")
    traced, untraced = WorkingModel(graph(text), sidecar=sidecar), WorkingModel(graph(text))
    for model in (traced, untraced):
        resolve(model.annotations)
    assert scopes(traced)["b"] == "step"
    assert scopes(untraced)["b"] == "."


def test_a_quantised_value_that_its_module_reads_again_stays_in_it() -> None:
    model = WorkingModel(
        graph(
            """
            g (float[2] x) => (float[2] y, float[2] z) {
                c = MatMul(x, w)                      #@ block.linear
                q = QuantizeLinear(c, scale)
                d = DequantizeLinear(q, scale)
                y = Relu(d)                           #@ block.act
                z = Sigmoid(d)                        #@ gate
            }"""
        )
    )
    resolve(model.annotations)
    assert scopes(model)["q"] == scopes(model)["d"] == "block"


ARGUMENT = """
g (float[2, 8] x) => (float[8, 2] y) {
    a = Neg(x)                          #@ enc
    h = Tanh(a)                         #@ enc
    t = Transpose <perm = [1, 0]> (h)
    r = Relu(t)                         #@ dec
    y = Exp(r)                          #@ dec
}"""


def test_arguments_move_out() -> None:
    sidecar = trace_of(
        """
        . Net x:2x8 -> y:8x2
        enc Enc x:2x8 -> h:2x8
        dec Dec t:8x2 -> y:8x2
        """
    )
    model = WorkingModel(graph(ARGUMENT), sidecar=sidecar)
    resolve(model.annotations)
    assert scopes(model)["t"] == "dec"
    move_arguments_out(model)
    assert scopes(model) == {"a": "enc", "h": "enc", "t": ".", "r": "dec", "y": "dec"}


def test_nodes_between_the_values_of_a_module() -> None:
    x = np.array([-1, 2, 3], np.float32)
    a = np.maximum(x, 0)
    c = -np.exp(a)
    arrays = {"x": x, "a": a, "c": c, "y": np.abs(c + a)}
    sidecar = trace_of(
        """
        . Net x:3 -> y:3
        block Block a:3 -> c:3
        """,
        arrays=arrays,
    )
    by_id = {str(t.id): arrays[t.name] for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
    text = "g (float[3] x) => (float[3] y) { a = Relu(x) b = Exp(a) c = Neg(b) d = Add(c, a) y = Abs(d) }"
    model = WorkingModel(graph(text), sidecar=sidecar, values=values(arrays | by_id))
    annotate_by_values(model)
    assert scopes(model) == {"a": ".", "b": "block", "c": "block", "d": ".", "y": "."}


SHARED = """
g (float[4] m, float[2, 4] x) => (float[2, 4] y) {
    u = Abs(m)          #@ one
    k = Sqrt(u)         #@ one
    h = Mul(x, k)       #@ one
    s = Add(h, k)       #@ two
    y = Relu(s)         #@ two
}"""


def test_what_modules_share_is_hoisted() -> None:
    sidecar = trace_of(
        """
        . Net m:4 x:2x4 -> y:2x4
        one One x:2x4 m:4 -> h:2x4
        two Two h:2x4 m:4 -> y:2x4
        """
    )
    model = WorkingModel(graph(SHARED), sidecar=sidecar)
    hoist_shared(model)
    assert scopes(model) == {"u": ".", "k": ".", "h": "one", "s": "two", "y": "two"}


def test_a_fused_node_goes_to_the_module_whose_output_it_makes() -> None:
    text = """
    g (float[1, 3, 2, 2] x, float[4, 3, 1, 1] w1, float[4] b1, float[4, 4, 1, 1] w2, float[4] b2)
    => (float[1, 4, 1, 1] y) {
        c1 = Conv(x, w1, b1)        #@ conv1
        r1 = Relu(c1)               #@ act1
        c2 = Conv(r1, w2, b2)       #@ conv2
        r2 = Relu(c2)               #@ act2
        y = GlobalAveragePool(r2)   #@ pool
    }"""
    arrays = {"w1": random(4, 3, 1, 1), "b1": random(4), "w2": random(4, 4, 1, 1), "b2": random(4)}
    proto = graph(text, arrays)
    del proto.graph.input[1:]
    sidecar = trace_of(
        """
        . Net x:1x3x2x2 -> y:1x4x1x1
        conv1 Conv1 x:1x3x2x2 -> c1:1x4x2x2
        bn1 Bn1 c1:1x4x2x2 -> n1:1x4x2x2
        act1 Act1 n1:1x4x2x2 -> r1:1x4x2x2
        bn2 Bn2 r1:1x4x2x2 -> n2:1x4x2x2
        conv2 Conv2 n2:1x4x2x2 -> c2:1x4x2x2
        act2 Act2 c2:1x4x2x2 -> r2:1x4x2x2
        pool Pool r2:1x4x2x2 -> y:1x4x1x1
        """,
        weights={"conv1.weight": [4, 3, 1, 1], "bn1.weight": [4], "conv2.weight": [4, 4, 1, 1], "bn2.weight": [4]},
    )
    model = WorkingModel(proto, sidecar=sidecar)
    assign_fused(model)
    assert scopes(model) == {"c1": "bn1", "r1": "act1", "c2": "conv2", "r2": "act2", "y": "pool"}
    assert merged(model) == {"c1": ["conv1", "bn1"], "c2": ["bn2", "conv2"]}


CHAIN = """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, w1)   #@ one
    a = Add(m, b1)      #@ one
    r = Relu(a)         #@ act
    n = MatMul(r, w2)   #@ two
    y = Add(n, b2)      #@ two
}"""
WEIGHTS = {"w1": random(8, 8), "b1": random(8), "w2": random(8, 8), "b2": random(8)}
FUSED = """
g (float[2, 8] x) => (float[2, 8] y) {
    r = com.microsoft.FusedGemm <activation = "Relu"> (x, w1, b1)
    n = MatMul(r, w2)
    y = Add(n, b2)
}"""


def chain() -> WorkingModel:
    return WorkingModel(graph(CHAIN, WEIGHTS))


def after(text: str, weights: Mapping[str, Array]) -> WorkingModel:
    return WorkingModel(graph(text, weights), previous=chain())


def earlier_names(model: WorkingModel) -> dict[str, set[str]]:
    """Return the earlier values that each value stands for, by name."""
    assert model.previous
    found, previous = EarlierModelMatch(model, model.previous), model.previous.graph
    return {
        model.graph.names[value]: {previous.names[v] for v in others} for value, others in found.earlier_values.items()
    }


def test_correspondence_follows_what_is_known() -> None:
    text = """
    g (float[2, 8] x) => (float[2, 8] y) {
        t1 = MatMul(x, w1)
        t2 = Add(t1, b1)
        t3 = Relu(t2)
        t4 = MatMul(t3, w2)
        y = Add(t4, b2)
    }"""
    found = earlier_names(after(text, WEIGHTS))
    assert {name: found[name] for name in ("t1", "t2", "t3", "t4")} == {
        "t1": {"m"},
        "t2": {"a"},
        "t3": {"r"},
        "t4": {"n"},
    }


def test_what_is_known_is_followed_from_the_end() -> None:
    text = """
    g (float[2, 8] x) => (float[2, 8] y) {
        t2 = com.microsoft.FusedGemm <activation = "Relu"> (x, w1, b1)
        t3 = MatMul(t2, w2)
        y = Add(t3, b2)
    }"""
    found = earlier_names(after(text, WEIGHTS))
    assert {name: found[name] for name in ("t2", "t3", "y")} == {"t2": {"r"}, "t3": {"n"}, "y": {"y"}}


def test_a_fused_node_does_the_work_of_three() -> None:
    model = after(FUSED, WEIGHTS)
    assert model.previous
    found = EarlierModelMatch(model, model.previous)
    assert found.node_now == [0, 0, 0, 1, 2]


def test_tags_after_a_tool() -> None:
    model = after(FUSED, WEIGHTS)
    annotate_by_previous(model)
    assign_fused_previous(model)
    assert scopes(model) == {"r": "act", "n": "two", "y": "two"}
    assert merged(model) == {"r": ["one", "act"]}


THREE = """
g (float[2, 4] x) => (float[2, 4] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    s = Add(q, k)
    y = Add(s, v)
}"""


def test_weights_are_known_by_content() -> None:
    arrays = {name: random(4, 4) for name in ("wq", "wk", "wv")}
    earlier = WorkingModel(graph(THREE, arrays))
    finder = WeightMatches(earlier.graph, earlier.weights)

    def found(array: Array) -> list[str]:
        values_ = finder.find(numpy_helper.from_array(array, "new"), earlier.weights)
        return [earlier.graph.names[value] for value in values_]

    assert found(np.concatenate([arrays["wq"], arrays["wk"], arrays["wv"]], axis=1)) == ["wq", "wk", "wv"]
    assert found(np.ascontiguousarray(arrays["wk"].T)) == ["wk"]
    assert found(arrays["wv"].astype(np.float16)) == ["wv"]
    assert found(random(4, 4)) == []


def test_names_that_were_numbered_anew_say_nothing() -> None:
    def numbered(*text: str) -> WorkingModel:
        arrays = {"w1": random(8, 4), "w2": random(4, 6), "w3": random(6, 3)}
        return WorkingModel(graph(f"g (float[2, 8] x) => (float[2, 3] y) {{ {' '.join(text)} }}", arrays))

    earlier = numbered(
        "t1 = MatMul(x, w1)", "t2 = Identity(t1)", "t3 = MatMul(t2, w2)", "t4 = MatMul(t3, w3)", "y = Neg(t4)"
    )
    now = numbered("t1 = MatMul(x, w1)", "t2 = MatMul(t1, w2)", "t3 = MatMul(t2, w3)", "y = Neg(t3)")
    names = SurvivingNames(now, earlier)
    assert {now.graph.names[value] for value in names.named} == {"x", "w1", "w2", "w3", "t1", "t2", "t3", "y"}
    assert names.values() == {}
    assert {now.graph.names[value] for value in names.fixed()} == {"x", "w1", "w2", "w3", "y"}


def test_equal_values_of_two_runs() -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { a = Neg(x) b = Exp(a) c = Relu(b) d = Sqrt(c) y = Abs(d) }"
    now = "g (float[2, 3] x) => (float[2, 3] y) { p = Neg(x) q = Exp(p) y = Sqrt(q) }"
    model, earlier = WorkingModel(graph(now)), WorkingModel(graph(text))
    found = equal_values(model, earlier, values({"x": random(2, 3)}))
    names, before = model.graph.names, earlier.graph.names
    assert {names[value]: [before[v] for v in others] for value, others in found.items()} == {
        "p": ["a"],
        "q": ["b", "c"],
        "y": ["d", "y"],
    }
    one, other = (summary_of(array) for array in (np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3).T))
    assert one is not None
    assert other is not None
    assert one[0] == other[0]
    assert not np.allclose(one, other)


def test_the_output_of_a_module_in_a_quantised_graph() -> None:
    text = """
    g (float[2, 4] x) => (float[2, 4] y) {
        m = MatMul(x, w)                    #@ one
        a = Add(m, b)                       #@ one
        i = QuantizeLinear(a, s, z)         #@ one
        d = DequantizeLinear(i, s, z)       #@ one
        y = Relu(d)                         #@ act
    }"""
    weights: dict[str, Array] = {"w": random(4, 4), "b": random(4), "s": np.array(0.1, np.float32)}
    proto = graph(text, weights)
    proto.graph.initializer.append(numpy_helper.from_array(np.int8(0), "z"))
    x, a = random(2, 4), random(2, 4)
    near, nearer = a + np.float32(0.02), a + np.float32(0.01)
    sidecar = trace_of(". Net x:2x4 -> y:2x4\none One x:2x4 -> a:2x4\nact Act a:2x4 -> y:2x4")
    recorded = {"x": x, "a": a, "y": np.maximum(a, 0)}
    by_id = {str(t.id): recorded[t.name] for call in sidecar.calls for t in (*call.inputs, *call.outputs)}
    model = WorkingModel(proto, sidecar=sidecar)
    matches = OutputMatches(model.annotations, model.shapes, sidecar, values(by_id))
    for name, array in {"m": nearer, "a": nearer, "d": near, "y": np.maximum(near, 0)}.items():
        matches.compare(model.graph.by_name[name], array)
    matches.conclude(Tolerance(0.1))
    of = {t.name: matches[t.id] for c in sidecar.calls for t in c.outputs}
    assert {name: model.graph.names[match.value] for name, match in of.items() if match} == {"a": "d", "y": "y"}


def test_a_fused_kernel_counts_for_the_modules_around() -> None:
    model = chain()
    found = Attribution(model.annotations, WorkingModel(graph(FUSED, WEIGHTS)).graph)
    assert [None if call is None else found.hierarchy.scopes[call] for call in found.calls] == [".", "two", "two"]


def test_nodes_of_modules_are_compared_without_names() -> None:
    text = """
    g (float[2] x) => (float[2] y) {
        a = Neg(x)          #@ one
        b = Sub(a, x)       #@ one
        c = Neg(b)          #@ two
        d = Sub(c, b)       #@ two
        y = Sub(b, d)       #@ three
    }"""
    contents = Contents(WorkingModel(graph(text)), {})
    one, two = (contents.content(contents.nodes(scope)) for scope in ("one", "two"))
    assert one.nodes == two.nodes
    swapped = Contents(WorkingModel(graph(text.replace("Sub(c, b)", "Sub(b, c)"))), {})
    other = swapped.content(swapped.nodes("two"))
    assert other.operators == two.operators
    assert other.nodes != two.nodes
