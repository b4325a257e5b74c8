"""Modules in bodies that exporters make: torch.cond, while_loop and scan by dynamo, scripted loops by TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import mxtools
from tests.support.commands import Mx


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.ih(x) + self.hh(h))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre, self.cell = nn.Linear(4, 4), Cell()
        self.yes, self.no = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)


class Cond(Model):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: self.yes(t) * 2, lambda t: self.no(t), (self.pre(x[0]),))


class While(Model):
    def forward(self, x: Tensor) -> Tensor:
        start = (torch.tensor(0), torch.zeros_like(x[0]))
        return while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, self.cell(self.pre(x[0]), h)), start)[1]


class Scan(Model):
    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            new = self.cell(u, h)
            return new, new.clone()

        return scan(step, torch.zeros_like(x[0]), self.pre(x), dim=0)[1]


class Scripted(Model):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[0])
        for t in range(x.size(0)):
            h = self.cell(x[t], h)
            if bool(h.sum() > 0):
                h = self.no(h)
        return self.pre(h)


def exported(kind: type[Model], file: Path) -> Model:
    """Export a model, and return it."""
    torch.manual_seed(0)
    module, inputs = kind().eval(), (torch.randn(3, 2, 4),)
    if kind is Scripted:
        torch.onnx.export(torch.jit.script(module), inputs, file, dynamo=False)
    else:
        torch.onnx.export(module, inputs, file, dynamo=True, verbose=False)
    return module


@pytest.mark.parametrize(
    ("kind", "scopes"),
    [
        (Cond, {"yes.0": False, "no": True}),
        (While, {"cell.ih": False, "cell.hh": False}),
        (Scan, {"cell.ih": False, "cell.hh": False}),
        (Scripted, {"cell.ih": False, "cell.hh": False, "cell": False, "no": True}),
    ],
)
def test_modules_in_bodies(kind: type[Model], scopes: dict[str, bool], mx: Mx, tmp_path: Path) -> None:
    """Each returns what PyTorch's module does; a branch that made inputs do not lead to cannot be compared by mx."""
    module = exported(kind, tmp_path / "m.onnx")
    assert mx("tag", tmp_path / "m.onnx", "-o", tmp_path / "t.onnx").returncode == 0
    for scope, is_idle in scopes.items():
        checked = mx("filter", tmp_path / "t.onnx", "--scope", scope, "--verify", "-o", tmp_path / "p.onnx")
        text = checked.stderr.decode()
        assert checked.returncode == (1 if is_idle else 0), text
        assert ("does not run on these inputs: give --inputs" in text) == is_idle
        if is_idle:
            assert mx("filter", tmp_path / "t.onnx", "--scope", scope, "-o", tmp_path / "p.onnx").returncode == 0
        part = onnx.load(tmp_path / "p.onnx")
        onnx.checker.check_model(part, full_check=True)
        submodule: Callable[..., Tensor] = module.get_submodule(scope)
        given = [torch.randn(2, 4) for _ in part.graph.input]
        feeds = {info.name: value.numpy() for info, value in zip(part.graph.input, given, strict=True)}
        (result,) = onnxruntime.InferenceSession(tmp_path / "p.onnx").run(None, feeds)
        orders = (given, given[::-1])  # a cell's input and state may come in either order
        assert any(torch.allclose(torch.from_numpy(result), submodule(*order), atol=1e-6) for order in orders), scope


def test_other_commands_see_modules_in_bodies(mx: Mx, tmp_path: Path) -> None:
    exported(Scan, tmp_path / "m.onnx")
    mx("tag", tmp_path / "m.onnx", "-o", tmp_path / "t.onnx")
    assert "hh" in mx("tree", tmp_path / "t.onnx").stdout.decode()
    assert mx("select", tmp_path / "t.onnx", "--scope", "cell.ih").stdout.decode().split() == ["node_linear_2"]
    assert "cell.hh" in mx("view", tmp_path / "t.onnx", "--format", "graphml").stdout.decode()
    model = onnx.load(tmp_path / "t.onnx")
    next(tensor for tensor in model.graph.initializer if tensor.name == "cell.hh.bias").raw_data = bytes(16)
    onnx.save(model, tmp_path / "u.onnx")
    assert "cell.hh" in mx("compare", tmp_path / "t.onnx", tmp_path / "u.onnx").stdout.decode()
    split = mx("split", tmp_path / "t.onnx", "--class", "cell", "-d", tmp_path / "parts")
    assert split.returncode == 4
    assert "cell is in the body of Scan 'node_scan__1': select a module that contains it all" in split.stderr.decode()
    assert mx("split", tmp_path / "t.onnx", "--depth", "2", "-d", tmp_path / "parts", "--verify").returncode == 0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).sin() * 2


class Blocks(nn.Module):
    """Both branches are modules that work after their last weight."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: self.yes(t), lambda t: self.no(t), (x,))


@pytest.mark.parametrize("sign", [1, -1])
def test_what_follows_the_weights_of_a_branch_is_in_the_module_that_ended_with_it(sign: int) -> None:
    torch.manual_seed(0)
    module, x = Blocks().eval(), torch.rand(3, 4) * sign
    trace = mxtools.trace(module, {"x": x})
    model = mxtools.export(module, {"x": x}, exporter="dynamo")
    model.tag(trace)
    part = model.filter("yes" if sign > 0 else "no").proto
    session = onnxruntime.InferenceSession(part.SerializeToString())
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(result, module(x), atol=1e-6)
