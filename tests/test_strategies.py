"""Strategies as data: the shipped ones, the user's, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mxtools.errors import InputError, UsageError
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.strategy.attempt import Demands, checked, tagged_by
from mxtools.pytorch.subject import Subject
from mxtools.scopes.keys import SCOPE
from mxtools.strategies import table
from mxtools.strategies.metrics import Meter
from tests.support.commands import Mx

OWN = """
[strategies.mine]
help = "names only"
exporter = "torchscript"
pipeline = "untag,project-names"
"""


def test_shipped_pipelines_print_as_they_are_read() -> None:
    for strategy in table.shipped().strategies.values():
        assert str(Pipeline.parse(strategy.pipeline)) == strategy.pipeline
        assert strategy.passes().passes[-2].name == "record-absent"


def test_every_decision_names_a_strategy_and_every_priority_ends_somewhere() -> None:
    shipped = table.shipped()
    for decision in shipped.decisions:
        assert decision.strategy in shipped.strategies
    assert {d.priority for d in shipped.decisions} == {"coverage", "speed", "fidelity", "compatibility"}


@pytest.mark.parametrize("form", ["mxtools.toml", "pyproject.toml"])
def test_a_users_strategy_is_found_from_a_folder_below(tmp_path: Path, form: str) -> None:
    text = OWN if form == "mxtools.toml" else OWN.replace("[strategies", "[tool.mxtools.strategies")
    (tmp_path / form).write_text(text)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert table.known(below)["mine"].exporter == "torchscript"


def test_a_project_without_settings_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mxtools.toml").write_text(OWN)
    below = tmp_path / "project"
    below.mkdir()
    (below / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "mine" in table.known(below)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[strategies.x]\nhelp='h'", r"strategies\.x\.pipeline: Field required"),
        ("[strategies.x]\npipeline='no-such-pass'", "there is no pass 'no-such-pass'"),
        ("[strategies.x]\npipeline='untag'\nexporter='tf'", r"strategies\.x\.exporter: Input should be"),
        ("[strategies.x]\npipeline='untag'\nspeed=1", r"strategies\.x\.speed: Extra inputs"),
        ("[strategies.auto]\npipeline='untag'", "redefines the strategy 'auto'"),
        ("[strategies", "cannot be read as TOML"),
    ],
    ids=["no pipeline", "no such pass", "no such exporter", "unknown key", "shipped name", "no TOML"],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mxtools.toml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        table.known(tmp_path)
    assert str(tmp_path / "mxtools.toml") in str(error.value)


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'hpt'.*htp"):
        table.get("hpt")


def test_a_folder_cannot_change_what_an_unnamed_strategy_does(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "mxtools.toml").write_text("[strategies.auto]\npipeline = 'surgeon{script=evil.py:run}'\n")
    model = _by_weights()
    done = mx("tag", stdin=model.SerializeToString(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(onnx.load_from_string(done.stdout).graph.node) == 3


def _by_weights() -> onnx.ModelProto:
    """Return `encoder.0` (Add), a Relu, and `head` (Mul), known by their weights' names only."""
    weights = [
        numpy_helper.from_array(np.arange(4, dtype=np.float32), name) for name in ("encoder.0.bias", "head.scale")
    ]
    nodes = [
        helper.make_node("Add", ["x", "encoder.0.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "head.scale"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _scopes(model: onnx.ModelProto) -> list[str]:
    return [next(p.value for p in node.metadata_props if p.key == SCOPE) for node in model.graph.node]


def test_usage_knows_modules_by_their_weights_and_guesses_nothing_between(mx: Mx) -> None:
    done = mx("tag", "-s", "usage", stdin=_by_weights().SerializeToString())
    assert done.returncode == 0, done.stderr
    assert _scopes(onnx.load_from_string(done.stdout)) == ["encoder.0", ".", "head"]


def test_usage_exports_so_that_weights_keep_their_names(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    subject = Subject(model, {"input": torch.ones(1, 3, 4)}, "mlp")
    tagged = tagged_by("usage", Sources(lambda: subject, tmp_path), Meter())
    assert tagged.export.exporter == "torchscript"  # the cheapest
    assert {"0", "2"} <= set(_scopes(tagged.model.proto))
    weights = {tensor.name for tensor in tagged.model.proto.graph.initializer}
    assert model.state_dict().keys() <= weights


class Branching(torch.nn.Module):
    """TorchScript takes the branch of the example inputs for the only one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.head(x),))


class Zeros(torch.nn.Module):
    """Layers whose biases are all zero, of which TorchScript stores one, and copies with the names of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = norm(x).relu()
        return x


def test_usage_takes_the_other_exporter_where_the_cheapest_fails(tmp_path: Path) -> None:
    subject = Subject(Branching().eval(), {"x": torch.ones(1, 4)}, "branching")
    tagged = checked("usage", Sources(lambda: subject, tmp_path), Demands(verify=True), Meter(), Meter())
    assert tagged.export.exporter == "dynamo"
    assert not tagged.agreement.wrong


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_weights_that_are_all_equal_are_known_by_their_copies(tmp_path: Path, exporter: str) -> None:
    subject = Subject(Zeros().eval(), {"x": torch.randn(2, 4)}, "zeros")
    tagged = tagged_by("usage", Sources(lambda: subject, tmp_path), Meter(), exporter=exporter)
    nodes = tagged.model.proto.graph.node
    placed = dict(zip((n.op_type + str(i) for i, n in enumerate(nodes)), _scopes(tagged.model.proto), strict=True))
    normalising = [scope for name, scope in placed.items() if name.startswith("LayerNormalization")]
    assert normalising == ["norms.0", "norms.1", "norms.2"]


def test_usage_with_the_names_of_a_state_dict(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("encoder.0.bias\n")
    pipeline = f"project-parameters{{names={tmp_path / 'names.txt'}}},resolve-auxiliary{{between=true}}"
    done = mx("run", "-p", pipeline, stdin=_by_weights().SerializeToString())
    assert done.returncode == 0, done.stderr
    assert _scopes(onnx.load_from_string(done.stdout)) == ["encoder.0", ".", "."]


def test_run_takes_a_strategy_and_then_passes(mx: Mx) -> None:
    model = _by_weights().SerializeToString()
    both = mx("run", "-s", "usage", "-p", "filter{scope=head}", stdin=model)
    tagged = mx("tag", "-s", "usage", stdin=model)
    piped = mx("filter", "--scope", "head", stdin=tagged.stdout)
    assert both.returncode == 0, both.stderr
    assert both.stdout == piped.stdout
    assert mx("run", stdin=model).returncode == 2


def test_strategies_are_listed(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "mxtools.toml").write_text(OWN)
    done = mx("strategies", cwd=tmp_path)
    assert done.returncode == 0
    assert b"mine" in done.stdout
    assert b"names only" in done.stdout
