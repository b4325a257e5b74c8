"""What holds of every pass, whatever the graph: over all registered passes and the graphs of all golden cases."""

from __future__ import annotations

import re
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest

from mxtools.errors import MxError
from mxtools.graph.functions import model_nodes
from mxtools.pipeline.pipeline import Pipeline, Step
from mxtools.pipeline.registry import load, names
from mxtools.scopes import keys
from tests.support.golden_cases import Case, files

SPECS = {
    "carry": "carry{doc-string=true,rename=true,output-names=true,namespace=true,layer-annotation=true}",
    "filter": "filter{scope=.}",
    "fold": "fold{depth=1,nested=true}",
    "graft": "graft{part=whole.onnx}",
    "optimize": "optimize{with=ort-basic}",
    "project-parameters": "project-parameters{alone=true}",
    "surgeon": "surgeon{script=nothing.py:nothing}",
    "untag": "untag{carriers=true}",
}
"""Specs of passes that would do little or nothing without options; the others are given none."""

LOSES_METADATA = {"optimize"}
"""Passes that put what another tool made in the place of the graph: it lost what nodes held."""

SHARES_NODES = {"fold", "unfold"}
"""Passes after which one node stands for several, or several for one."""

REASONS = {
    "filter": "no node has a scope",
    "fold": "no node has a scope|nothing is selected|cannot be a function",
    "optimize": "no node of the earlier model has a scope|ONNX Runtime cannot run the graph",
    "project-parameters": "the sidecar belongs to another model",
}
"""Why passes refuse some of the graphs, as regular expressions."""

FOREIGN = "other.tool/key"


@dataclass(frozen=True)
class Run:
    """A graph before a pass and after it, whether the model's version grew, and the error where the pass refused."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    grew: bool
    error: MxError | None = None


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def runs(name: str, then: str = "") -> dict[str, Run]:
    """Return what a pass, and a pipeline behind it, make of the graph of each golden case."""
    found = {}
    for file in files():
        with TemporaryDirectory() as folder, chdir(folder):
            found[file.stem] = run(",".join(filter(None, [SPECS.get(name, name), then])), Case.read(file))
    return found


def run(spec: str, case: Case) -> Run:
    """Run a pipeline, in the working directory, over a graph whose nodes all have a key of somebody else."""
    model = case.model()
    for number, node in enumerate(model_nodes(model.proto)):
        node.metadata_props.add(key=FOREIGN, value=f"of node {number}")
    model.proto.metadata_props.add(key=FOREIGN, value="of the model")
    before = copied(model.proto)
    onnx.save(before, "whole.onnx")
    Path("nothing.py").write_text("def nothing(graph):\n    pass\n")
    error = None
    try:
        Pipeline.parse(spec).run(model)
    except MxError as raised:
        error = raised
    return Run(before, copied(model.proto), model.version > 0, error)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def without_annotations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without what a pass may write that only annotates: tags, the model's metadata, the IR version."""
    bare = copied(model)
    del bare.metadata_props[:]
    bare.ClearField("ir_version")
    for node in model_nodes(bare):
        keys.replace_props(node, keys.NODE_KEYS, {})
    return bare


def test_valid_graphs_stay_valid(name: str) -> None:
    for case, found in runs(name).items():
        # of what another runtime's operators make, onnx does not know the type, and wants to know it in functions
        is_known = all(not node.domain for node in found.before.graph.node)
        for model in (found.before, found.after):
            try:
                onnx.checker.check_model(model, full_check=is_known)
            except onnx.checker.ValidationError as error:
                pytest.fail(f"{case}: {error}")


def test_a_pass_is_refused_nowhere_without_reason(name: str) -> None:
    """Those that do nothing where there is nothing to know run everywhere."""
    refused = {case: str(found.error) for case, found in runs(name).items() if found.error}
    assert all(re.search(REASONS.get(name, "^$"), reason) for reason in refused.values()), refused
    assert len(refused) < len(files()) / 2


def test_what_a_pass_refuses_stays_as_it_was(name: str) -> None:
    for case, found in runs(name).items():
        if found.error and not load(name).then:
            assert without_annotations(found.after) == without_annotations(found.before), case


def test_metadata_of_others_are_kept(name: str) -> None:
    for case, found in runs(name).items():
        assert keys.props(found.after)[FOREIGN] == "of the model", case
        if name not in LOSES_METADATA | SHARES_NODES:
            values = [keys.props(node).get(FOREIGN) for node in model_nodes(found.before)]
            kept = [keys.props(node).get(FOREIGN) for node in model_nodes(found.after)]
            assert kept == [value for value in values if value in {*kept}], f"{case}: each in its place, none twice"


def test_bodies_and_functions_are_visited(name: str) -> None:
    for case, found in runs(name, "resolve-auxiliary").items():
        if not found.error:
            assert all(keys.props(node).get(keys.SCOPE) for node in model_nodes(found.after)), case


def test_running_twice_changes_nothing_more(name: str) -> None:
    twice = runs(name, SPECS.get(name, name))
    for case, once in runs(name).items():
        if not once.error:
            assert twice[case].error is None, case
            assert twice[case].after == once.after, case


def test_a_change_of_the_graph_is_observed(name: str) -> None:
    for case, found in runs(name).items():
        if without_annotations(found.after) != without_annotations(found.before):
            assert found.grew, case


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_a_change_of_the_graph_is_observed_in_every_case(file: Path, tmp_path: Path) -> None:
    """With options that make passes do something, and part and script of the case."""
    case = Case.read(file)
    case.put_files(tmp_path)
    model = case.model()
    seen = [without_annotations(model.proto)]

    def observe(step: Step) -> None:
        seen.append(without_annotations(model.proto))
        if seen[-1] != seen[-2]:
            assert step.changed, step.step.name

    with chdir(tmp_path), suppress(MxError):
        case.passes().run(model, observe)
