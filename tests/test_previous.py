"""What a tool did to a tagged graph, and where the tags go."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mxtools.errors import InputError
from mxtools.scopes.annotations import read_absent
from mxtools.traces.values import Values
from tests.support import golden_text as golden
from tests.support.carried_tags import LINEAR, LINEARS, B, V, W, carried, linear, quantised, with_weights

CHANGED = {
    "nothing": """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, one__w)       #@ one previous
    a = Add(m, one__b)          #@ one previous
    r = Relu(a)                 #@ act previous
    n = MatMul(r, two__w)       #@ two previous
    y = Add(n, two__b)          #@ two previous
}""",
    "two nodes of a module become one": """
g (float[2, 8] x) => (float[2, 8] y) {
    a = Gemm(x, one__w, one__b) #@ one previous
    r = Relu(a)                 #@ act previous
    y = Gemm(r, two__w, two__b) #@ two previous
}""",
    "a module ends inside the node of the next": """
g (float[2, 8] x) => (float[2, 8] y) {
    r = com.microsoft.FusedGemm <activation = "Relu"> (x, one__w, one__b)   #@ act previous one act
    n = MatMul(r, two__w)       #@ two previous
    y = Add(n, two__b)          #@ two previous
}""",
    "a module ends inside the node of the next, and has nodes yet": """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, one__w)                               #@ one previous
    r = com.microsoft.BiasRelu (m, one__b)              #@ act previous one act
    n = MatMul(r, two__w)                               #@ two previous
    y = Add(n, two__b)                                  #@ two previous
}""",
    "other names of the inner values": """
g (float[2, 8] x) => (float[2, 8] y) {
    v1 = MatMul(x, one__w)      #@ one previous
    v2 = Add(v1, one__b)        #@ one previous
    v3 = Relu(v2)               #@ act previous
    v4 = MatMul(v3, two__w)     #@ two previous
    y = Add(v4, two__b)         #@ two previous
}""",
    "names given anew, old ones to other values": """
g (float[2, 8] x) => (float[2, 8] y) {
    n = MatMul(x, one__w)       #@ one previous
    r = Add(n, one__b)          #@ one previous
    a = Relu(r)                 #@ act previous
    m = MatMul(a, two__w)       #@ two previous
    y = Add(m, two__b)          #@ two previous
}""",
    "conversions before and behind a node": """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, one__w)       #@ one previous
    a = Add(m, one__b)          #@ one previous
    c = Cast <to = 10> (a)      #@ act dataflow
    s = Relu(c)                 #@ act dataflow
    r = Cast <to = 1> (s)       #@ act previous
    n = MatMul(r, two__w)       #@ two previous
    y = Add(n, two__b)          #@ two previous
}""",
    "a quantised node": """
g (float[2, 8] x) => (float[2, 8] y) {
    q, s, z = DynamicQuantizeLinear(x)                  #@ one dataflow
    i = MatMulInteger(q, one__w, z)                     #@ one parameter
    c = Cast <to = 1> (i)                               #@ one dataflow
    m = Mul(c, s)                                       #@ one previous
    a = Add(m, one__b)                                  #@ one previous
    r = Relu(a)                                         #@ act previous
    n = MatMul(r, two__w)                               #@ two previous
    y = Add(n, two__b)                                  #@ two previous
}""",
    "a reshape before and behind a node": """
g (float[2, 8] x) => (float[2, 8] y) {
    p = Flatten(x)              #@ one dataflow
    g = Gemm(p, one__w, one__b) #@ one previous
    a = Squeeze(g)              #@ one previous
    r = Relu(a)                 #@ act previous
    n = MatMul(r, two__w)       #@ two previous
    y = Add(n, two__b)          #@ two previous
}""",
}


@pytest.mark.parametrize("text", CHANGED.values(), ids=CHANGED.keys())
def test_tags_follow_the_names_that_survived(text: str) -> None:
    after = with_weights(golden.untagged(text), **LINEARS)
    assert carried(linear(), after) == golden.tags(text)


def test_a_module_whose_end_is_gone_is_absent_or_merged() -> None:
    after = with_weights(golden.untagged(CHANGED["a module ends inside the node of the next"]), **LINEARS)
    carried(linear(), after)
    assert read_absent(after) == {"one": "merged: act"}


def test_one_slice_that_is_made_of_two_is_not_the_second() -> None:
    """What it reads is not what the second one read, although both make the same."""
    shared = "y = Slice ({}, {}, {}, {})"
    before = golden.read(
        f"""g (float[8, 8] x) => (float[4, 8] y)
        <int64[1] "zero" = {{0}}, int64[1] "one" = {{1}}, int64[1] "four" = {{4}}, int64[1] "eight" = {{8}}>
        {{
            a = Neg (x)   #@ one metadata
            s = Slice (a, zero, eight, one)   #@ two metadata
            {shared.format("s", "zero", "four", "zero")}   #@ two metadata
        }}"""
    )
    after = golden.read(
        f"""g (float[8, 8] x) => (float[4, 8] y)
        <int64[2] "zeros" = {{0, 0}}, int64[2] "ends" = {{4, 8}}, int64[2] "axes" = {{0, 1}}>
        {{
            a = Neg (x)
            {shared.format("a", "zeros", "ends", "axes")}
        }}"""
    )
    found = carried(before, after)
    assert found["a"].split()[0] == "one"
    assert found["y"].split()[0] == "two"


def test_a_reshape_that_a_tool_put_in_moves_nothing_out() -> None:
    """It is before a product that does its caller's work too, where its module had something of the one before."""
    before = with_weights(
        golden.read(
            """g (float[2, 4, 8] x) => (float[2, 4, 8] y) {
                a = Neg (x)   #@ all.one metadata
                m = MatMul (a, w)   #@ all.two metadata
                y = Mul (m, k)   #@ . metadata
            }"""
        ),
        w=W,
        k=B,
    )
    after = with_weights(
        golden.untagged(
            """g (float[2, 4, 8] x) => (float[2, 4, 8] y) {
                a = Neg (x)
                f = Reshape (a, flat)
                n = MatMul (f, v)
                y = Reshape (n, deep)
            }"""
        ),
        v=W * B,
        flat=np.array([8, 8]),
        deep=np.array([2, 4, 8]),
    )
    found = carried(before, after)
    assert found["a"].split()[0] == "all.one"


def test_what_was_absent_stays_so() -> None:
    before = linear()
    before.metadata_props.add(key="pkg.mxtools.absent", value='{"drop": "vacuous", "one": "folded"}')
    after = linear()
    carried(before, after)
    assert read_absent(after) == {"drop": "vacuous"}


TWICE = """
g (float[2, 8] x, float[2, 8] z) => (float[2, 8] y) {
    a = MatMul (x, enc__w)  #@ enc
    b = MatMul (z, enc__w)  #@ enc@1
    s = Sub (a, b)          #@ .
    y = Tanh (s)            #@ head
}"""
PARTS = {
    "the beginning": (
        """
g (float[2, 8] x) => (float[2, 8] a) {
    a = MatMul (x, enc__w)  #@ enc previous
}""",
        {"enc@1": "unused", "head": "unused"},
    ),
    "the end": (
        """
g (float[2, 8] a, float[2, 8] b) => (float[2, 8] y) {
    s = Sub (a, b)          #@ . previous
    y = Tanh (s)            #@ head previous
}""",
        {"enc": "unused", "enc@1": "unused"},
    ),
}


@pytest.mark.parametrize(("text", "absent"), PARTS.values(), ids=PARTS.keys())
def test_what_is_not_in_a_part_is_neither_folded_nor_merged(text: str, absent: dict[str, str]) -> None:
    before = with_weights(golden.read(TWICE), enc__w=W)
    after = with_weights(golden.untagged(text), enc__w=W)
    assert carried(before, after) == golden.tags(text)
    assert read_absent(after) == absent


def test_a_constant_module_is_folded() -> None:
    before = golden.read("""
        g (float[2] x) => (float[2] y) {
            c = Constant <value_floats = [1.0, 2.0]> ()     #@ table
            d = Neg(c)                                      #@ table
            y = Add(x, d)                                   #@ .
        }""")
    after = with_weights(
        golden.untagged("g (float[2] x) => (float[2] y) { \n y = Add(x, d) \n }"), d=np.array([-1, -2], np.float32)
    )
    assert carried(before, after) == {"y": ". previous"}
    assert read_absent(after) == {"table": "folded"}


def test_what_one_module_returned_stays_in_it_though_others_made_it_too() -> None:
    before = golden.read("""
g (float[4] x) => (float[4] y) {
    a = Neg(x)          #@ one
    b = Neg(x)          #@ two
    y = Add(a, b)       #@ .
}""")
    text = """
g (float[4] x) => (float[4] y) {
    a = Neg(x)          #@ one previous one two
    y = Add(a, a)       #@ . previous
}"""
    after = golden.untagged(text)
    assert carried(before, after) == golden.tags(text)
    assert read_absent(after) == {"two": "merged: one"}


def test_a_reshape_that_is_fused_with_the_next_ends_no_module() -> None:
    before = golden.read("""
g (float[2, 8] x, int64[2] s, int64[2] t) => (float[4, 4] y) {
    a = Neg(x)          #@ one
    b = Reshape(a, s)   #@ one
    c = Reshape(b, t)   #@ two
    y = Abs(c)          #@ two
}""")
    text = """
g (float[2, 8] x, int64[2] t) => (float[4, 4] y) {
    a = Neg(x)          #@ one previous
    c = Reshape(a, t)   #@ two previous
    y = Abs(c)          #@ two previous
}"""
    assert carried(before, golden.untagged(text)) == golden.tags(text)


def test_a_module_that_loses_one_of_its_results_ends_in_the_node_that_makes_it() -> None:
    """The other result is made inside as before, which says nothing of the lost one."""
    before = golden.read("""
g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) {
    m = Sin(x)          #@ one
    z = Neg(m)          #@ one
    a = Add(x, m)       #@ one
    y = Softmax(a)      #@ two
}""")
    text = """
g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) {
    m = Sin(x)          #@ one previous
    z = Neg(m)          #@ one previous
    y = com.microsoft.AddSoftmax(x, m)      #@ two previous one two
}"""
    assert carried(before, golden.untagged(text)) == golden.tags(text)


def test_a_module_loses_nothing_with_a_shape_that_is_computed_elsewhere() -> None:
    before = golden.read("""
g (float[n, 8] x) => (float[n, 8] y) {
    s = Shape(x)        #@ one
    a = Neg(x)          #@ one
    b = ConstantOfShape(s)   #@ two
    y = Sub(a, b)       #@ two
}""")
    text = """
g (float[n, 8] x) => (float[n, 8] y) {
    a = Neg(x)          #@ one previous
    b = com.microsoft.ZerosLike(x)     #@ two previous
    y = Sub(a, b)       #@ two previous
}"""
    assert carried(before, golden.untagged(text)) == golden.tags(text)


def test_a_folded_scale_takes_the_name_but_not_the_module() -> None:
    """The product has the name of what was scaled, says a weight that is new and one that is used no more."""
    before = with_weights(
        golden.read("""
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, one__w)   #@ one
    s = Mul(m, scale)       #@ .
    y = Add(s, x)           #@ .
}"""),
        one__w=W,
        scale=B,
    )
    text = """
g (float[2, 8] x) => (float[2, 8] y) {
    m = MatMul(x, fused)    #@ . previous . one
    y = Add(m, x)           #@ . previous
}"""
    assert carried(before, with_weights(golden.untagged(text), fused=W * B)) == golden.tags(text)


STRIPPED = """
g (float[2, 8] x) => (float[2, 8] out) {
    v1 = MatMul(x, c1)      #@ one previous
    v2 = Add(v1, c2)        #@ one previous
    v3 = Relu(v2)           #@ act previous
    v4 = MatMul(v3, c3)     #@ two previous
    out = Add(v4, c4)       #@ two previous
}"""
FORMS = {
    "as they are": (W, V),
    "as float16": (W.astype(np.float16), V.astype(np.float16)),
    "transposed": (W.T.copy(), V.T.copy()),
    "reshaped": (W.reshape(4, 16), V.reshape(1, 8, 8)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_weights_tell_where_no_name_does(form: tuple[np.ndarray, np.ndarray]) -> None:
    after = with_weights(golden.untagged(STRIPPED), c1=form[0], c2=B, c3=form[1], c4=-B)
    assert carried(linear(), after) == golden.tags(STRIPPED)


def packed(array: np.ndarray) -> np.ndarray:
    """Return the columns of a matrix, 4 bits a number, as MatMulNBits has them."""
    numbers = (np.round(array.T / np.abs(array).max() * 7) + 8).astype(np.uint8).reshape(-1, 2)
    return (numbers[:, 0] | numbers[:, 1] << 4).reshape(len(array.T), 1, -1)


@pytest.mark.parametrize("form", [quantised, packed, lambda a: quantised(a.T.copy())], ids=["int8", "packed", "T"])
def test_quantised_weights_are_known_by_their_likeness(form: object) -> None:
    text = """
g (float[2, 8] x) => (float[2, 8] out) {
    v1 = com.microsoft.Q(x, c1)     #@ one parameter
    v2 = Add(v1, c2)                #@ one parameter
    v3 = Relu(v2)                   #@ act previous
    v4 = com.microsoft.Q(v3, c3)    #@ two parameter
    out = Add(v4, c4)               #@ two parameter
}"""
    after = with_weights(golden.untagged(text), c1=form(W), c2=B, c3=form(V), c4=-B)  # type: ignore[operator]
    assert carried(linear(), after) == golden.tags(text)


def test_concatenated_weights_are_known_by_their_pieces() -> None:
    before = with_weights(
        golden.read("""
g (float[2, 8] x) => (float[2, 8] y) {
    q = MatMul(x, q__w)     #@ attn.q
    k = MatMul(x, k__w)     #@ attn.k
    y = Add(q, k)           #@ attn
}"""),
        q__w=W,
        k__w=V,
    )
    text = """
g (float[2, 8] x) => (float[2, 8] y) {
    p = com.microsoft.Packed(x, both)                   #@ attn parameter
    l, r = Split <axis = -1, num_outputs = 2> (p)       #@ attn previous attn attn.q attn.k
    y = Add(l, r)         #@ attn previous
}"""
    after = with_weights(golden.untagged(text), both=np.concatenate([W, V], axis=1))
    assert carried(before, after) == golden.tags(text)


def test_equal_weights_leave_it_to_what_they_lead_to() -> None:
    before = with_weights(
        golden.read("""
g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) {
    y = MatMul(x, a__w)     #@ a
    z = MatMul(y, b__w)     #@ b
}"""),
        a__w=W,
        b__w=W,
    )
    text = """
g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) {
    q, s, t = DynamicQuantizeLinear(x)  #@ a dataflow
    i = MatMulInteger(q, c1, t)         #@ a parameter
    c = Cast <to = 1> (i)               #@ a dataflow
    y = Mul(c, s)                       #@ a previous
    p, u, v = DynamicQuantizeLinear(y)  #@ b dataflow
    j = MatMulInteger(p, c2, v)         #@ b parameter
    d = Cast <to = 1> (j)               #@ b dataflow
    z = Mul(d, u)                       #@ b previous
}"""
    after = with_weights(golden.untagged(text), c1=quantised(W), c2=quantised(W))
    assert carried(before, after) == golden.tags(text)


def test_values_tell_what_nothing_else_does() -> None:
    before = golden.read("""
g (float[4] x) => (float[4] y) {
    a = Exp(x)              #@ one
    b = Log(a)              #@ two
    y = Neg(b)              #@ three
}""")
    text = """
g (float[4] x) => (float[4] out) {
    v1 = Pow(base, x)       #@ one value
    v2 = Log(v1)            #@ two value
    out = Neg(v2)           #@ three value
}"""
    after = with_weights(golden.untagged(text), base=np.array(np.e, np.float32))
    given = {"x": np.array([0.5, 1, 2, -1], np.float32)}
    assert carried(before, after, Values(given.keys(), given.__getitem__)) == golden.tags(text)


def test_nodes_in_bodies_keep_their_tags() -> None:
    text = """
<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[2] x) => (float[2] y) {
    y = If (c) <
        then_branch = yes () => (float[2] t) { t = Neg(x) },
        else_branch = no () => (float[2] e) { m = Abs(x) e = Exp(m) }>
}"""
    before, after = (onnx.parser.parse_model(text) for _ in range(2))
    branches = {a.name: a.g.node for a in before.graph.node[0].attribute}
    for node, scope in (
        (before.graph.node[0], "."),
        (branches["then_branch"][0], "a"),
        (branches["else_branch"][1], "b"),
    ):
        node.metadata_props.add(key="pkg.mxtools.scope", value=scope)
        node.metadata_props.add(key="pkg.mxtools.tag", value="/M" if scope == "." else f"/M/{scope.upper()}")
    carried(before, after)
    found = {a.name: a.g for a in after.graph.node[0].attribute}
    scopes = {
        n.output[0]: golden.written(onnx.ModelProto(graph=g))[n.output[0]] for g in found.values() for n in g.node
    }
    assert scopes == {"t": "a previous", "m": "b dataflow", "e": "b previous"}


def test_an_earlier_model_must_bear_tags() -> None:
    with pytest.raises(InputError, match=r"call `model.tag\(\)`"):
        carried(golden.untagged(LINEAR), golden.untagged(LINEAR))


OTHER = """
g (float[2, 8] u) => (float[2, 8] v) {
    m = MatMul(u, val_1)
    a = Add(m, val_2)
    r = Relu(a)
    v = MatMul(r, val_3)
}"""


def test_another_model_is_no_earlier_model() -> None:
    """All names of inner values are equal, and one of a weight, as exporters number them."""
    before = with_weights(golden.read(LINEAR.replace("two__w", "val_1")), **LINEARS | {"val_1": V})
    others = {"val_1": -V, "val_2": 2 * B, "val_3": W[::-1].copy()}
    with pytest.raises(InputError, match=r"the earlier model is another one: .* has none of its weights or outputs"):
        carried(before, with_weights(golden.untagged(OTHER), **others))
    related = with_weights(golden.untagged(OTHER), **others | {"val_1": W})
    assert carried(before, related)["m"] == "one previous"
    renamed = with_weights(golden.untagged(OTHER.replace("v =", "y =").replace("8] v", "8] y")), **others)
    assert carried(before, renamed)["r"] == "act previous"


def test_a_model_is_related_by_its_weights_alone() -> None:
    """A tool that merges models puts something in front of every name, so that no name of one is in the other.

    The weights have more elements than constants that are compared one by one.
    """
    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("one__w", "two__w")}
    text = """
g (float[2, 16] x) => (float[2, 16] y) {
    m = MatMul(x, one__w)       #@ one
    r = Relu(m)                 #@ act
    y = MatMul(r, two__w)       #@ two
}"""
    before = with_weights(golden.read(text), **weights)
    after = onnx.compose.add_prefix(with_weights(golden.untagged(text), **weights), "enc_")
    assert carried(before, after) == {"enc_m": "one previous", "enc_r": "act previous", "enc_y": "two previous"}


def test_inputs_with_new_names_are_the_same_in_order() -> None:
    """Both calls of a module look alike; only what they are given tells them apart."""
    text = """
g (float[2, 8] {0}, float[2, 8] {1}) => (float[2, 8] {2}, float[2, 8] {3}) {{
    m = MatMul({1}, one__w)     #@ one@1
    n = MatMul({0}, one__w)     #@ one
    {2} = Relu(n)               #@ act
    {3} = Relu(m)               #@ act@1
}}"""
    before = with_weights(golden.read(text.format("a", "b", "c", "d")), one__w=W)
    after = (
        text.format("p", "q", "r", "s")
        .replace("m ", "t ")
        .replace("(m)", "(t)")
        .replace("n ", "u ")
        .replace("(n)", "(u)")
    )
    found = carried(before, with_weights(golden.untagged(after), one__w=W))
    assert {name: words.split()[0] for name, words in found.items()} == {
        "t": "one@1",
        "u": "one",
        "r": "act",
        "s": "act@1",
    }


def test_copies_of_one_weight_are_the_same_in_order() -> None:
    """An exporter keeps a weight that it transposed once for each call of its module."""
    text = """
g (float[2, 8] x) => (float[2, 8] y) {
    a = MatMul(x, one)          #@ fc
    b = Exp(a)                  #@ act
    c = MatMul(b, two)          #@ fc@1
    d = Softplus(c)             #@ act@1
    e = MatMul(d, three)        #@ fc@2
    y = Exp(e)                  #@ act@2
}"""
    names = dict(zip("xyabcde", "qrsuvwz", strict=True)) | {"one": "k", "two": "l", "three": "m"}
    before = with_weights(golden.read(text), one=W, two=W, three=W)
    after = with_weights(golden.untagged(text.replace("x) =>", "x, float[2] more) =>")), one=W, two=W, three=W)
    for node in after.graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in (*after.graph.input, *after.graph.output, *after.graph.initializer):
        value.name = names.get(value.name, value.name)
    found = [words.split()[0] for words in carried(before, after).values()]
    assert found == ["fc", "act", "fc@1", "act@1", "fc@2", "act@2"]


def test_running_twice_changes_nothing_more() -> None:
    after = with_weights(golden.untagged(CHANGED["a quantised node"]), **LINEARS)
    carried(linear(), after)
    once = after.SerializeToString()
    carried(linear(), after)
    assert after.SerializeToString() == once
    assert TensorProto.FLOAT16 == 10
