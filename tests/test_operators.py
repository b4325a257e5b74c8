"""The operator table: what is ONNX's own, by domain, name and version, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper, parser

from mxtools.comparison.contents import Contents
from mxtools.evidence.parameters import annotate_by_parameters
from mxtools.graph.index import Graph
from mxtools.graph.operators import Operator, Operators, operator_title, schema
from mxtools.graph.shapes import Shapes
from mxtools.matching.elements import same_elements
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.selection import Selection
from mxtools.tools.node_lists import FORMATS, Format, select

LATEST = onnx.defs.onnx_opset_version()
NOTHING_KNOWN = Operator()

TRAITS = {
    "reads_only_shape": {"Shape", "Size"},
    "is_random": {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    },
    "keeps_elements": {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"},
    "is_product": {
        "Conv",
        "ConvInteger",
        "QLinearConv",
        "ConvTranspose",
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "Gemm",
    },
}


def operators(functions: str = "", **imports: int) -> Operators:
    """Return the operators of a model that imports ONNX's own at the latest version, unless `onnx` says another."""
    imported = {"": imports.pop("onnx", LATEST), **imports}
    listed = ", ".join(f'"{domain}" : {version}' for domain, version in imported.items())
    return Operators(parser.parse_model(f"<ir_version: 10, opset_import: [{listed}]> g () => () {{}} {functions}"))


def known(found: Operators, name: str, domain: str = "", overload: str = "", region: int = 0) -> Operator:
    return found.of(helper.make_node(name, [], [], domain=domain, overload=overload), region)


def tagged(model: str, **scopes: str) -> WorkingModel:
    """Return a model whose nodes have the scopes that are given by the name of their first output."""
    found = WorkingModel(parser.parse_model(model))
    for node, proto in enumerate(found.graph.nodes):
        call = found.annotations.hierarchy.add([(name, "") for name in scopes.get(proto.output[0], "m").split(".")])
        found.annotations.set(node, call, Evidence.NAME)
    return found


@pytest.mark.parametrize("trait", TRAITS)
def test_every_trait_is_that_of_the_onnx_operators_that_have_it(trait: str) -> None:
    names = {found.name for found in onnx.defs.get_all_schemas() if found.domain == ""}
    assert {name for name in names if getattr(known(operators(), name), trait)} == TRAITS[trait]


@pytest.mark.parametrize("domain", ["my", "com.microsoft", "ai.onnx.ml", "ai.onnx.training"])
def test_nothing_is_known_of_operators_of_other_domains(domain: str) -> None:
    found = operators(**{domain: 1})
    for name in set[str]().union(*TRAITS.values()):
        assert known(found, name, domain) == NOTHING_KNOWN


def test_onnx_own_domain_has_two_names() -> None:
    found = operators()
    assert known(found, "Shape", "ai.onnx") == known(found, "Shape")
    assert known(found, "Shape").reads_only_shape
    alias = parser.parse_model(f'<ir_version: 10, opset_import: ["ai.onnx" : {LATEST}]> g () => () {{}}')
    assert known(Operators(alias), "Bernoulli").is_random


def test_an_operator_is_onnx_own_from_the_version_on_that_has_it() -> None:
    assert [known(operators(onnx=v), "Bernoulli").is_random for v in (14, 15, LATEST)] == [False, True, True]
    assert known(operators(onnx=LATEST + 100), "Bernoulli").is_random  # a version that is newer than the package
    assert known(operators(onnx=1 << 40), "Bernoulli").is_random
    assert known(operators(onnx=1 << 40), "Bernoulli").schema is None  # no version is that large
    assert not known(operators(), "Scatter_").is_onnx


@pytest.mark.parametrize("name", sorted(set[str]().union(*TRAITS.values())))
def test_the_table_says_since_when_an_operator_exists(name: str) -> None:
    versions = range(1, LATEST + 1)
    assert [known(operators(onnx=v), name).since > 0 for v in versions] == [
        schema("", name, v) is not None for v in versions
    ]


def test_a_model_that_imports_nothing_is_of_the_first_version() -> None:
    old = Operators(ModelProto(ir_version=2))
    assert known(old, "Shape").reads_only_shape
    assert not known(old, "Bernoulli").is_random


def test_a_function_of_the_model_goes_before_an_operator_of_its_name() -> None:
    found = operators(f'<domain: "", opset_import: ["" : {LATEST}]> Shape (p) => (q) {{ q = Abs(p) }}')
    for domain in ("", "ai.onnx"):
        assert known(found, "Shape", domain) == NOTHING_KNOWN
    assert known(found, "Size").reads_only_shape


def test_a_function_goes_before_an_operator_only_with_its_overload() -> None:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {LATEST}]> g () => () {{}}')
    opset = helper.make_opsetid("", LATEST)
    function = helper.make_function("", "Shape", ["p"], ["q"], [helper.make_node("Abs", ["p"], ["q"])], [opset])
    function.overload = "data"
    model.functions.append(function)
    assert known(Operators(model), "Shape", overload="data") == NOTHING_KNOWN
    assert known(Operators(model), "Shape").reads_only_shape


def test_a_function_imports_versions_of_its_own() -> None:
    found = operators('<domain: "my", opset_import: ["" : 14]> f (p) => (q) { q = Bernoulli(p) }', my=1)
    assert [known(found, "Bernoulli", region=region).is_random for region in (0, 1)] == [True, False]


def test_the_index_knows_the_operator_of_every_node() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : {LATEST}, "my" : 1]> g (bool c, float[2] x) => (y) {{
        a = my.Shape(x)
        y = If (c) <then_branch = t () => (int64[1] s) {{ s = Shape(a) }},
            else_branch = e () => (int64[1] i) {{ i = my.Size(a) }}>
    }}
    <domain: "my", opset_import: ["" : {LATEST}]> Shape (p) => (q) {{ q = RandomNormalLike(p) }}"""
    graph = Graph(parser.parse_model(text))
    found = {graph.names[graph.writes[node][0]]: operator for node, operator in enumerate(graph.operators)}
    assert {
        name: operator.asked[1] if operator.asked and operator.is_onnx else "" for name, operator in found.items()
    } == {
        "a": "",
        "s": "Shape",
        "i": "",
        "y": "If",
        "q": "RandomNormalLike",
    }
    assert graph.varying == {0, len(graph.nodes) - 1}  # what calls the random function, and the node in it


SHAPE = '<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (float[2] x) => (float[2] y, float[2] z) <float[2] a> {'
DATA = '<domain: "my", opset_import: ["" : 21]> Shape (p) => (q) { q = Abs(p) }'


def outputs_of_cut(source: str, **scopes: str) -> list[str]:
    model = tagged(source, **scopes)
    Filter(scope=("m",)).apply(model)
    onnx.checker.check_model(model.proto)
    return [value.name for value in model.proto.graph.output]


def test_what_a_function_called_shape_reads_is_an_output_of_a_cut() -> None:
    graph = SHAPE + "a = Relu(x) b = Neg(x) y = my.Shape(a) z = Exp(b) }"
    for functions in (DATA, ""):  # without a definition it is a custom operator
        assert outputs_of_cut(graph + functions, y="n", z="n", q="n") == ["a", "b"]


def test_what_onnx_shape_reads_is_no_output_of_a_cut() -> None:
    graph = SHAPE + "a = Relu(x) b = Neg(x) s = Shape(a) y = ConstantOfShape(s) z = Exp(b) }"
    assert outputs_of_cut(graph, s="n", y="n", z="n") == ["b"]


def test_what_a_function_called_shape_makes_is_no_shape() -> None:
    """The rest would copy a shape with all that leads to it; this is an output of the cut."""
    graph = SHAPE + "a = my.Shape(x) b = Neg(x) y = Abs(a) z = Exp(b) }"
    for functions in (DATA, ""):
        assert outputs_of_cut(graph + functions, y="n", z="n") == ["a", "b"]


def test_a_custom_operator_called_like_a_random_one_is_a_constant() -> None:
    for name, constant in (("RandomNormal", set()), ("my.RandomNormal", {"r"})):
        text = f'<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (x) => (y) {{ r = {name}() y = Add(x, r) }}'
        graph = Graph(parser.parse_model(text))
        assert {graph.names[value] for value in graph.constant} == constant


def test_only_onnx_own_operators_keep_elements() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (float[1, 2] x) => (float[2, 1] c) {
        a = Identity(x) b = my.Identity(a) c = Transpose(b) d = my.Transpose(c) }"""
    model = parser.parse_model(text)
    graph = Graph(model)
    model.graph.value_info.extend(helper.make_tensor_value_info(name, 1, [1, 2]) for name in "ab")
    first = same_elements(graph, Shapes(model, graph.names))
    same = {graph.names[value]: graph.names[of] for value, of in enumerate(first)}
    assert same == {"x": "x", "a": "x", "b": "b", "c": "b", "d": "d"}


@pytest.mark.parametrize(("operator", "scopes"), [("Identity", {"y": "encoder.dense"}), ("my.Identity", {})])
def test_only_onnx_identity_copies_a_weight(operator: str, scopes: dict[str, str], tmp_path: Path) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (float[2] x) => (y) <float[2] w = {{1, 2}}> {{
        copy = {operator}(w) y = Add(x, copy) }}"""
    model = WorkingModel(parser.parse_model(text))
    # the text format has no dots in names
    model.proto.graph.node[0].output[0] = model.proto.graph.node[1].input[1] = "encoder.dense.bias"
    (tmp_path / "names").write_text("encoder.dense.bias")
    annotate_by_parameters(model, tmp_path / "names")
    hierarchy, graph = model.annotations.hierarchy, model.graph
    found = {graph.names[graph.writes[n][0]]: c for n, c in enumerate(model.annotations.call) if c is not None}
    assert {name: hierarchy.scopes[call] for name, call in found.items()} == scopes


def test_only_an_onnx_gemm_is_taken_apart_by_the_quantiser() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (float[2, 2] x) => (y) {
        [g] a = Gemm(x, x, x) [h] y = my.Gemm(a, x, x) }"""
    lists = FORMATS[Format.ORT_QUANT](select(tagged(text), Selection(scopes=("m",))))
    assert lists == {"nodes_to_exclude": ["g", "h", "g_MatMul", "g_Add"]}


def test_products_are_counted_of_onnx_own_operators_only() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g (float[2, 3] x, float[3, 4] w) => (y) {
        a = MatMul(x, w) y = my.MatMul(x, w) }"""
    model = WorkingModel(parser.parse_model(text))
    assert model.costs().multiply_adds == {0: 2 * 3 * 4}


def test_a_comparison_knows_both_names_of_onnx_domain_and_its_defaults() -> None:
    """A Gemm that says what goes without saying, under the other name of the domain, is the same."""
    contents = []
    for node in ("Gemm(x, x)", "ai.onnx.Gemm <alpha = 1.0, transA = 0> (x, x)"):
        text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[2, 2] x) => (y) {{ y = {node} }}'
        contents.append(Contents(tagged(text), {}).content([0]))
    assert contents[0].nodes == contents[1].nodes
    assert contents[0].operators == contents[1].operators == {"Gemm": 1}


def test_a_function_has_no_defaults_of_an_operator_of_its_name() -> None:
    """To say alpha = 1 is not to say nothing where the model's own function is called Gemm."""
    own = '<domain: "", opset_import: ["" : 21]> Gemm <alpha> (p) => (q) { q = Elu <alpha : float = @alpha> (p) }'
    contents = []
    for node in ("Gemm(x)", "Gemm <alpha = 1.0> (x)"):
        text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[2, 2] x) => (y) {{ y = {node} }} {own}'
        contents.append(Contents(tagged(text), {}).content([0]))
    assert contents[0].nodes != contents[1].nodes


def test_titles_name_the_domain_unless_it_is_onnx_own() -> None:
    nodes = [helper.make_node("Gelu", [], [], domain=domain) for domain in ("", "ai.onnx", "com.microsoft")]
    assert [operator_title(node) for node in nodes] == ["Gelu", "Gelu", "com.microsoft.Gelu"]


def test_a_schema_is_that_of_the_version() -> None:
    assert [schema("", "Squeeze", version).since_version for version in (1, 11, 12, 13)] == [1, 11, 11, 13]
    assert schema("", "Gelu", 19) is None
    assert schema("ai.onnx", "Gelu", 20) is not None
