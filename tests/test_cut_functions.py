"""Cutting models with functions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from mxtools.errors import AbsentError
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection
from mxtools.split.parts import split
from tests.support.cuts import HEAD, NESTED, cut, shape, tagged
from tests.support.running import session

FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "own" : 1, "other" : 1]> g (float[2] x) => (float[2] y) {
    a = own.f <alpha = 0.5> (x)
    y = other.f(a)
}
<domain: "own", opset_import: ["" : 21, "own" : 1, "other" : 1]> f <alpha> (p) => (q) {
    h = LeakyRelu <alpha : float = @alpha> (p)
    q = own.h(h)
}
<domain: "other", opset_import: ["" : 21]> f (p) => (q) { q = Abs(p) }
<domain: "own", opset_import: ["" : 21, "other" : 1]> h (p) => (q) { q = Neg(p) }"""


def test_functions_come_along_by_domain_name_and_overload() -> None:
    model = tagged(FUNCTIONS, "a")
    for overload, operator in (("", "Exp"), ("b", "Sin")):
        function = helper.make_function(
            "own", "o", ["p"], ["q"], [helper.make_node(operator, ["p"], ["q"])], [helper.make_opsetid("", 21)]
        )
        function.overload = overload
        model.functions.append(function)
    # read by a node in the body of a function's node: the closure goes through both
    branch = [
        helper.make_graph(
            [helper.make_node("o", ["p"], [name], domain="own", overload="b")],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, None)],
        )
        for name in ("t", "e")
    ]
    inner = helper.make_node("If", ["c"], ["q"], then_branch=branch[0], else_branch=branch[1])
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    del model.functions[2].node[:]
    model.functions[2].node.extend([constant, inner])
    model.functions[2].opset_import.add(domain="own", version=1)
    kept = [f.SerializeToString() for f in (model.functions[0], model.functions[2], model.functions[4])]
    part = cut(model)
    assert [f.SerializeToString() for f in part.functions] == kept
    (result,) = session(part).run(None, {"x": np.array([-1, 1], np.float32)})
    assert np.allclose(result, np.sin([-0.5, 1]))


def test_functions_in_the_defaults_of_a_functions_attributes_come_along() -> None:
    model = tagged(FUNCTIONS, "y")
    body = helper.make_graph(
        [helper.make_node("h", ["x"], ["r"], domain="own")], "b", [], [helper.make_tensor_value_info("r", 1, [2])]
    )
    model.functions[1].attribute_proto.append(helper.make_attribute("body", body))
    model.functions[1].opset_import.add(domain="own", version=1)
    Filter(scope=("m",)).apply(WorkingModel(model))
    assert [f.domain + f.name for f in model.functions] == ["otherf", "ownh"]


def test_what_a_selected_node_holds_or_calls_comes_with_it() -> None:
    assert shape(cut(tagged(FUNCTIONS, "a", "h")))[0] == ["a"]
    assert shape(cut(tagged(HEAD + NESTED, "qq", "b")))[0] == ["k", "b"]


def test_a_module_that_is_only_in_a_function_that_nobody_calls_is_nowhere() -> None:
    model = tagged(FUNCTIONS, "a")
    function = helper.make_function(
        "own", "idle", ["p"], ["q"], [helper.make_node("Exp", ["p"], ["q"])], [helper.make_opsetid("", 21)]
    )
    model.functions.append(function)
    for key, value in (("scope", "n"), ("tag", "/M/N"), ("evidence", "name")):
        model.functions[-1].node[0].metadata_props.add(key=f"pkg.mxtools.{key}", value=value)
    refused = pytest.raises(AbsentError, match="n is in a function, which is called several times or never")
    with refused:
        Filter(scope=("n",)).apply(WorkingModel(model))
    with refused:
        split(WorkingModel(model), [Selection(("n",))])
