"""Folding random graphs: the same results to the bit, and unfolded the same model."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from mxtools.errors import AbsentError, UsageError
from mxtools.graph.functions import every_node
from mxtools.graph.operators import versions
from mxtools.passes.fold import Fold
from mxtools.passes.unfold import Unfold
from mxtools.pipeline.working_model import WorkingModel
from tests.support import random_models, running

DRAWN = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FOLDS = st.builds(
    Fold,
    each=st.sampled_from([(".",), ("*",), ("**",), ("*", "**"), ("a", "c")]),
    nested=st.booleans(),
)
SCOPES = random_models.SCOPES


@DRAWN
@given(random_models.models(SCOPES), st.booleans(), st.lists(FOLDS, min_size=1, max_size=2))
def test_random_graphs(model: ModelProto, condition: bool, folds: list[Fold]) -> None:
    feeds = random_models.feeds(condition)
    folded = WorkingModel(ModelProto.FromString(model.SerializeToString()))
    made = False
    for fold in folds:
        try:
            fold.apply(folded)
            made = True
        except (AbsentError, UsageError):  # none of the scopes is there, or none can be a function
            pass
    random_models.check(folded.proto)
    expected = running.outputs(model, feeds)
    for name, result in running.outputs(folded.proto, feeds).items():
        assert result.tobytes() == expected[name].tobytes(), name
    assert not made or "mxtools" in versions(folded.proto.opset_import)
    if made:
        Unfold(function=tuple(f.name for f in folded.proto.functions if f.domain == "mxtools")).apply(folded)
    assert folded.proto == model


@DRAWN
@given(random_models.models(SCOPES), st.booleans())
def test_all_functions_of_random_graphs_can_be_unfolded(model: ModelProto, condition: bool) -> None:
    feeds = random_models.feeds(condition)
    folded = WorkingModel(ModelProto.FromString(model.SerializeToString()))
    Fold(each=(".",)).apply(folded)
    Unfold().apply(folded)
    random_models.check(folded.proto)
    functions = {(function.domain, function.name) for function in folded.proto.functions}
    assert functions.isdisjoint((node.domain, node.op_type) for node in every_node(folded.proto.graph.node))
    expected = running.outputs(model, feeds)
    for name, result in running.outputs(folded.proto, feeds).items():
        assert result.tobytes() == expected[name].tobytes(), name
