"""What is known of one model never shows up in another, and no report takes the place of another."""

from __future__ import annotations

import json

from onnx import TensorProto, helper

from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.strategies import table
from tests.support.commands import Mx


def chain(*names: str, operator: str = "Neg") -> WorkingModel:
    """Return a model that is a chain of nodes of these names, without weights."""
    values = ["x", *(f"v{number}" for number in range(1, len(names))), "y"]
    nodes = [helper.make_node(operator, [values[at]], [values[at + 1]], name=name) for at, name in enumerate(names)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    return WorkingModel(helper.make_model(helper.make_graph(nodes, "g", [x], [y]), ir_version=10))


def tagged(*names: str) -> WorkingModel:
    model = chain(*names)
    table.get("auto").passes().run(model)
    return model


def scopes(model: WorkingModel) -> list[str | None]:
    calls, known = model.annotations.call, model.annotations.hierarchy.scopes
    return [None if call is None else known[call] for call in calls]


def test_an_earlier_models_call_tree_does_not_grow_by_what_a_later_one_says() -> None:
    earlier = tagged("/one/Neg", "/two/Neg")
    before = list(earlier.annotations.hierarchy.scopes), list(earlier.annotations.hierarchy.tags)
    for name in ("three", "four"):
        later = chain("/one/Neg", f"/{name}/inner/Neg")
        later.previous = earlier
        Pipeline.parse("untag,project-names,resolve-auxiliary").run(later)
        assert scopes(later) == ["one", f"{name}.inner"]
        assert later.annotations.hierarchy.scopes == [".", "one", "two", name, f"{name}.inner"]
    assert (earlier.annotations.hierarchy.scopes, earlier.annotations.hierarchy.tags) == before
    assert scopes(earlier) == ["one", "two"]


def test_each_model_has_the_index_of_its_own_graph() -> None:
    one, two = chain("a", "b", "c"), chain("d")
    assert [len(model.graph.nodes) for model in (one, two, one)] == [3, 1, 3]
    assert [node.name for node in two.graph.nodes] == ["d"]


def test_a_copy_changes_on_its_own() -> None:
    model = tagged("/one/Neg", "/two/Neg")
    twin = model.copy()
    with twin.changing() as proto:
        del proto.graph.node[1]
        proto.graph.node[0].output[0] = "y"
    Pipeline.parse("untag").run(twin)
    assert (len(model.graph.nodes), len(twin.graph.nodes)) == (2, 1)
    assert (scopes(model), scopes(twin)) == (["one", "two"], [None])


def test_a_change_drops_what_was_computed_from_the_graph() -> None:
    model = tagged("/one/Neg", "/two/Neg")
    assert model.once(lambda known: len(known.proto.graph.node)) == 2
    graph = model.graph
    with model.changing() as proto:
        proto.graph.node.append(helper.make_node("Abs", ["y"], ["z"], name="/three/Abs"))
    assert model.graph is not graph
    assert len(model.graph.nodes) == len(model.annotations.call) == 3


def test_both_reports_of_two_filters_are_there(mx: Mx) -> None:
    source = tagged("/one/inner/Neg", "/one/Neg", "/two/Neg").proto.SerializeToString()
    done = mx("run", "-p", "filter{scope=one},filter{scope=one.inner}", "-o", "/dev/null", "--json", stdin=source)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == ["filter", "filter@1"]
    assert [report[name]["nodes"] for name in report] == [2, 1]


def test_a_report_of_a_pipeline_inside_a_pipeline_is_there_too() -> None:
    model = tagged("/one/inner/Neg", "/one/Neg", "/two/Neg")
    inner = Pipeline.parse("filter{scope=one}")
    report = Pipeline((inner, *Pipeline.parse("filter{scope=one.inner}").passes)).run(model).to_dict()
    assert list(report) == ["filter", "filter@1"]
