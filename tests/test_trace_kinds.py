"""Tracing whatever runs in PyTorch: odd tensors, modules of other kinds, compiled parts, hooks, threads, copies."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch._higher_order_ops import scan, while_loop
from torch._subclasses import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import mxtools
from mxtools.errors import InputError
from mxtools.pytorch.digest import digest
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.subject import Subject, by_name
from mxtools.pytorch.tracing import trace
from mxtools.scopes.scope import DEEPEST
from mxtools.traces import sidecar
from tests.support.commands import Mx
from tests.support.paths import MODELS

X = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]])


class Net(nn.Module):
    """A model of some modules, whose forward is a function of the model and its input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = linear()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lin(x)) + x


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


def traced(model: nn.Module, x: Tensor = X) -> sidecar.Sidecar:
    """Return the trace of a model, written and read again."""
    made = trace(Subject(model, by_name(model, (x,)), "test"))
    return sidecar.loads(sidecar.dumps(made), "test")


def scopes(model: nn.Module, x: Tensor = X) -> list[str]:
    return [call.scope for call in traced(model, x).calls]


def total(tensor: sidecar.TracedTensor) -> float:
    assert tensor.fingerprint
    return tensor.fingerprint[3]


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.empty(3, 3)


ODD_TENSORS = {
    "sparse": (lambda: torch.eye(3).to_sparse(), (3, 3)),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), (3, 3)),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), (3,)),
    "meta": (lambda: torch.empty(2, 3, device="meta"), (2, 3)),
    "fake": (fake, (3, 3)),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(1, 4), torch.ones(2, 4)]), (12,)),
    "jagged": (lambda: torch.nested.nested_tensor([X, X[:1]], layout=torch.jagged), (12,)),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), (3,)),
    "packed": (lambda: torch.zeros(3, dtype=torch.uint8).view(torch.uint4), (3,)),
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_odd_tensors_among_buffers(kind: str) -> None:
    make, shape = ODD_TENSORS[kind]
    model = Net(lambda net, x: net.a(x), a=linear())
    model.register_buffer("odd", make(), persistent=False)
    model.register_buffer("same", model.odd, persistent=False)
    made = traced(model)
    assert [call.scope for call in made.calls] == [".", "a"]
    odd, same = made.modules[0].weights
    assert (odd.shape, odd.fingerprint, odd.tied) == (shape, None, None)
    assert same.tied == "odd"


class Pair(nn.Module):
    def forward(self, odd: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return odd, x.flip(0)


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_odd_tensors_among_arguments(kind: str) -> None:
    make, shape = ODD_TENSORS[kind]
    values: dict[str, Tensor] = {}
    made = trace(Subject(Net(lambda net, x: net.a(make(), x)[1], a=Pair()), {"x": X}, "test"), values)
    call = made.calls[1]
    assert [tensor.shape for tensor in call.inputs] == [shape, X.shape]
    assert call.reorders
    assert str(call.inputs[0].id) not in values
    assert torch.equal(values[str(call.outputs[1].id)], X.flip(0))


def test_shards_are_not_taken_for_one_memory() -> None:
    """Tensors of a class of its own that holds others say that their memory is at 0."""
    model = Net(lambda net, x: net.a(x), a=linear())
    for name in ("one", "two"):
        model.register_buffer(name, torch.masked.masked_tensor(torch.ones(3), torch.ones(3, dtype=torch.bool)))
    assert [weight.tied for weight in traced(model).modules[0].weights] == [None, None]


@pytest.mark.parametrize(
    "transform", [torch.vmap, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[0]], ids=["vmap", "jvp"]
)
def test_transformed_functions_are_recorded_as_a_graph_computes_them(transform: Any) -> None:
    values: dict[str, Tensor] = {}
    model = Net(lambda net, x: net.b(transform(net.a)(x)), a=Block(), b=linear())
    made = trace(Subject(model, {"x": X}, "test"), values)
    assert [call.scope for call in made.calls] == [".", "a", "a.lin", "a.act", "b"]
    a, b = made.calls[1], made.calls[4]
    assert a.outputs[0].shape == b.inputs[0].shape == X.shape
    assert a.outputs[0].fingerprint == b.inputs[0].fingerprint
    assert torch.equal(values[str(a.outputs[0].id)], values[str(b.inputs[0].id)])


@dataclass
class State:
    """A state that holds itself, and has a field that is not set yet."""

    x: Tensor
    me: Any = None
    later: Tensor = field(init=False)


class Stateful(nn.Module):
    def forward(self, state: State) -> State:
        state.me = state
        return state


def test_structures_that_hold_themselves() -> None:
    made = traced(Net(lambda net, x: net.a(net.a(State(x))).x * 2, a=Stateful()))
    assert [tensor.name for tensor in made.calls[2].inputs] == ["state.x"]


# Modules that take no hooks


def script(model: nn.Module) -> nn.Module:
    return torch.jit.script(model)


SCRIPTED = {
    "scripted": lambda: script(nn.Sequential(linear(), nn.ReLU())),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(nn.Sequential(linear(), nn.ReLU()).eval())),
    "traced": lambda: torch.jit.trace(Block(), X),
}


@pytest.mark.parametrize("kind", SCRIPTED)
def test_script_modules_are_their_callers_work(kind: str) -> None:
    made = traced(Net(lambda net, x: net.c(net.b(net.a(x))), a=linear(), b=SCRIPTED[kind](), c=Block()))
    assert [call.scope for call in made.calls] == [".", "a", "c", "c.lin", "c.act"]
    assert sidecar.opaque_modules(made) == ["b"]


def test_a_script_module_is_traced_as_one_call() -> None:
    made = traced(script(nn.Sequential(linear(), nn.ReLU())))
    (call,) = made.calls
    assert (call.inputs[0].shape, call.outputs[0].shape) == (X.shape, X.shape)
    assert sidecar.opaque_modules(made) == ["."]


def test_script_modules_are_named_once(mx: Mx, tmp_path: Path) -> None:
    done = mx("trace", f"{MODELS}:scripted", "-o", tmp_path / "t.json", "--record")
    assert done.returncode == 0, done.stderr.decode()
    told = [line for line in done.stderr.decode().splitlines() if "ScriptModules" in line]
    assert told == [
        "mx trace: PyTorch runs no hooks in ScriptModules (parts.0 and 1 more): their work counts for their callers"
    ]
    assert load_file(tmp_path / "t.safetensors")


class Uncalled(nn.Module):
    """A root that runs without hooks, because it has a `__call__` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * 2


def test_a_root_that_runs_no_hooks() -> None:
    made = traced(Uncalled())
    assert [call.scope for call in made.calls] == [".", "a"]
    assert [len(made.calls[0].inputs), len(made.calls[0].outputs)] == [1, 1]
    assert scopes(Net(lambda net, x: net.b(x), b=Uncalled())) == [".", "b.a"]


# Compiled parts, and control flow that PyTorch would capture


def compiler() -> tuple[Any, list[int]]:
    """Return a backend of torch.compile, and a list that grows with each graph that it compiles."""
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph

    return backend, compiled


class CompiledMethod(nn.Module):
    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.lin = linear()
        self.compiled = torch.compile(self._run, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        return self.compiled(x)

    def _run(self, x: Tensor) -> Tensor:
        return self.lin(x) * 2


def compiled_in_place(backend: Any) -> nn.Module:
    block = Block()
    block.compile(backend=backend)
    return block


COMPILED = {
    "wrapped": (lambda backend: torch.compile(Block(), backend=backend), ["b._orig_mod.lin", "b._orig_mod.act"]),
    "in place": (compiled_in_place, ["b.lin", "b.act"]),
    "method": (CompiledMethod, ["b.lin"]),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_parts_are_traced_eagerly(kind: str) -> None:
    make, inside = COMPILED[kind]
    backend, compiled = compiler()
    model = Net(lambda net, x: net.b(net.a(x)), a=linear(), b=make(backend))
    wrapped = ["b._orig_mod"] if kind == "wrapped" else []
    assert scopes(model) == [".", "a", "b", *wrapped, *inside]
    assert not compiled
    with torch.no_grad():
        model(X)
    assert compiled, "the stance is as before"


@pytest.mark.parametrize("kind", ["wrapped", "in place"])
def test_compiled_modules_are_exported_as_they_are(kind: str) -> None:
    backend, compiled = compiler()
    model = Net(lambda net, x: net.b(net.a(x)), a=linear(), b=COMPILED[kind][0](backend))
    exported = mxtools.export(model, X, exporter="torchscript")
    exported.tag(mxtools.trace(model, X))
    (result,) = exported.filter("b").run({"/a/Gemm_output_0": model.a(X).detach().numpy()}).values()
    assert not compiled
    with torch.no_grad():
        assert np.allclose(result, model(X), atol=1e-6)
    assert compiled, "it is compiled as before"


def test_a_compiled_model() -> None:
    backend, compiled = compiler()
    model = torch.compile(Net(lambda net, x: net.a(x), a=linear()), backend=backend)
    assert scopes(model) == [".", "_orig_mod", "_orig_mod.a"]
    assert not compiled


def attend(net: Any, x: Tensor) -> Tensor:
    q, k, v = (part(x).reshape(1, 1, 2, 4) for part in (net.q, net.k, net.v))
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: torch.where(i >= j, score, -float("inf")))


CONTROL_FLOW: dict[str, tuple[Callable[[Any, Tensor], Any], list[str]]] = {
    "cond": (lambda net, x: torch.cond(x.sum() > 0, lambda x: net.q(x), lambda x: net.k(x), (x,)), ["q"]),
    "while": (
        lambda net, x: while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, net.q(x)), (torch.tensor(0), x)),
        ["q", "q@1", "q@2"],
    ),
    "scan": (lambda net, x: scan(lambda c, e: (net.q(c + e), c * 1), torch.zeros(4), x), ["q", "q@1"]),
    "flex": (attend, ["q", "k", "v"]),
}


@pytest.mark.parametrize("kind", CONTROL_FLOW)
def test_control_flow_is_followed_as_it_ran(kind: str) -> None:
    run, called = CONTROL_FLOW[kind]
    assert scopes(Net(run, q=linear(), k=linear(), v=linear())) == [".", *called]


# Modules around modules


def test_wrappers() -> None:
    assert scopes(Net(lambda net, x: net.a(x), a=nn.DataParallel(Block()))) == [
        ".",
        "a",
        "a.module",
        "a.module.lin",
        "a.module.act",
    ]
    root = nn.DataParallel(Net(lambda net, x: net.a(x), a=linear()))
    assert [t.name for t in traced(root).model.inputs] == ["x"]


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def test_parametrizations_are_called_by_the_module_that_has_them() -> None:
    own = linear()
    parametrize.register_parametrization(own, "weight", Symmetric())
    normed = parametrizations.weight_norm(linear())
    assert scopes(Net(lambda net, x: net.b(net.a(x)), a=own, b=normed)) == [
        *(".", "a", "a.parametrizations.weight", "a.parametrizations.weight.0"),
        *("b", "b.parametrizations.weight", "b.parametrizations.weight.0"),
    ]
    assert scopes(nn.Sequential(torch.nn.utils.spectral_norm(linear()))) == [".", "0"]


def test_modules_for_quantization() -> None:
    import torch.ao.quantization as quantization

    model = nn.Sequential(quantization.QuantStub(), linear(), nn.ReLU(), quantization.DeQuantStub()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    prepared = quantization.prepare_qat(model).eval()
    assert {"0.activation_post_process", "1", "1.weight_fake_quant"} <= set(scopes(prepared))
    assert set(scopes(quantization.quantize_dynamic(Net(lambda net, x: net.a(x), a=linear()), {nn.Linear}))) == {
        ".",
        "a",
    }


class Coder(nn.Module):
    """A module that others use through methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = linear(), linear()

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x))


def test_other_methods_than_forward_are_no_calls() -> None:
    model = Net(lambda net, x: net.tower(net.coder.encode(x)), coder=Coder(), tower=Coder())
    made = traced(model)
    assert [call.scope for call in made.calls] == [".", "coder.encoder", "tower", "tower.encoder", "tower.decoder"]
    assert made.calls[1].parent == 0


def test_torch_export_made_modules_have_no_modes() -> None:
    program = torch.export.export(nn.Sequential(linear(), nn.ReLU()), (X,)).module()
    model = Net(lambda net, x: net.a(net.program(x)), program=program, a=nn.Dropout(0.5))
    assert scopes(model)[:2] == [".", "program"]
    assert model.a.training


# Hooks of others


def test_what_hooks_changed_is_what_is_recorded() -> None:
    model = Net(lambda net, x: net.b(x=net.a(x)), a=Block(), b=Block())
    model.a.register_forward_hook(lambda module, given, result: result * 0 + 3)
    model.b.register_forward_pre_hook(lambda module, args, given: (args, {"x": given["x"] + 1}), with_kwargs=True)
    calls = {call.scope: call for call in traced(model).calls}
    assert total(calls["a"].outputs[0]) == 3 * X.numel()
    assert total(calls["b"].inputs[0]) == total(calls["b.lin"].inputs[0]) == 4 * X.numel()


def hooking(net: Any, x: Tensor) -> Tensor:
    """Register hooks on a module, call it, and remove them."""
    before = net.b.register_forward_pre_hook(lambda module, given: (given[0] * 0 + 4,))
    after = net.b.register_forward_hook(lambda module, given, result: result * 0 + 3)
    result = net.b(net.a(x))
    before.remove()
    after.remove()
    return net.c(result)


def test_hooks_that_the_forward_pass_registers() -> None:
    model = Net(hooking, a=linear(), b=linear(), c=linear())
    calls = {call.scope: call for call in traced(model).calls}
    assert total(calls["b"].inputs[0]) == 4 * X.numel()
    assert total(calls["b"].outputs[0]) == total(calls["c"].inputs[0]) == 3 * X.numel()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def refuse(module: nn.Module, given: Any) -> None:
    raise ValueError


def unless_refused(net: Any, x: Tensor) -> Tensor:
    try:
        x = net.a(x)
    except ValueError:
        x = net.b(x)
    return net.b(x)


def test_a_call_that_a_hook_prevented_is_none() -> None:
    model = Net(unless_refused, a=linear(), b=linear())
    model.a.register_forward_pre_hook(refuse)
    assert scopes(model) == [".", "b", "b@1"]


# Where and how modules run


def in_threads(net: Any, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda block: block(x), [net.a, net.b]))
    return net.c(results[0] + results[1])


def test_threads_of_the_forward_pass() -> None:
    made = traced(Net(in_threads, a=Block(), b=Block(), c=linear()))
    parents = {call.scope: made.calls[call.parent].scope for call in made.calls if call.parent is not None}
    assert parents == {"a": ".", "b": ".", "c": ".", "a.lin": "a", "a.act": "a", "b.lin": "b", "b.act": "b"}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_modules_are_called_once(use_reentrant: bool) -> None:
    run = partial(checkpoint, use_reentrant=use_reentrant)
    assert scopes(Net(lambda net, x: run(net.a, x), a=Block())) == [".", "a", "a.lin", "a.act"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_that_the_forward_pass_makes_are_other_modules(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = Net(lambda net, x: net.b(copied(net.a)(x)), a=linear(), b=Block())
    assert scopes(model) == [".", "b", "b.lin", "b.act"]


class Growing(nn.Module):
    """A module that makes one of its modules when it is first called, and drops another."""

    def __init__(self) -> None:
        super().__init__()
        self.old: nn.Module | None = linear()
        self.new: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.old is not None:
            x, self.old, self.new = self.old(x), None, linear()
        return x


def test_modules_that_come_and_go() -> None:
    made = traced(Growing())
    assert [call.scope for call in made.calls] == [".", "old"]
    assert [module.path for module in made.modules] == [".", "old", "new"]


def test_lazy_modules() -> None:
    made = traced(Net(lambda net, x: net.a(x), a=nn.LazyLinear(4), unused=nn.LazyLinear(4)))
    weights = {module.path: [weight.shape for weight in module.weights] for module in made.modules}
    assert weights == {".": [], "a": [(4, 4), (4,)], "unused": []}


class Recursive(nn.Module):
    """A module that calls itself."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.lin, self.times = linear(), times

    def forward(self, x: Tensor, done: int = 0) -> Tensor:
        return x if done == self.times else self(self.lin(x), done + 1)


def test_recursion() -> None:
    assert scopes(Net(lambda net, x: net.a(x), a=Recursive(2))) == [
        ".",
        *("a", "a.lin"),
        *("a.a", "a.a.lin"),
        "a.a.a",
    ]
    assert scopes(Recursive(2)) == [".", "lin", "lin@1"]


@pytest.fixture
def deep_stack() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * before)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("deep_stack")
def test_calls_deeper_than_scopes_count_for_the_one_around_them() -> None:
    made = traced(Net(lambda net, x: net.a(x), a=Recursive(DEEPEST + 20)))
    levels = [call.scope.count(".") + 1 for call in made.calls[1:]]
    assert max(levels) == DEEPEST
    assert len(made.calls[0].outputs) == 1


# What stays behind


class Merging(nn.Module):
    """An adapter that merges weights in evaluation mode and takes them out again, as LoRA's does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def train(self, mode: bool = True) -> Merging:
        if mode != self.training:
            self.weight.data += -1 if mode else 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + random.random() + np.random.rand() + torch.rand(())


def test_modes_settings_and_random_states_are_as_before() -> None:
    model = Net(lambda net, x: net.a(x), a=Merging()).train()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    made = traced(model)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert made.modules[1].weights[0].fingerprint == (4, 1.0, 1.0, 4.0, 4.0)
    assert model.a.training
    assert model.a.weight.sum() == 0


def leaving(net: Any, x: Tensor) -> Tensor:
    raise SystemExit(3)


def test_a_forward_pass_that_ends_the_process() -> None:
    model = Net(leaving, a=linear())
    with pytest.raises(InputError, match="raised SystemExit: 3"):
        traced(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_spec_of_a_wrapped_model() -> None:
    subject = load_subject(f"{MODELS}:wrapped")
    assert list(subject.inputs) == ["x"]
    assert [call.scope for call in trace(subject).calls][:2] == [".", "module"]


@pytest.mark.parametrize("kind", ["sparse", "compressed", "quantized", "nested", "complex", "packed"])
def test_caches_know_odd_tensors_by_their_values(kind: str) -> None:
    def digest_of(change: int) -> str:
        model = Net(lambda net, x: net.a(x), a=nn.Identity())
        model.register_buffer("odd", ODD_TENSORS[kind][0]())
        odd = model.odd
        if kind == "packed":
            odd = odd.view(torch.uint8)
        elif kind in ("sparse", "compressed", "nested"):
            odd = odd.values()
        if kind == "quantized":
            model.odd = torch.quantize_per_tensor(torch.ones(3) + change, 0.1, 0, torch.qint8)
        else:
            odd += change
        return digest(Subject(model, {"x": X}, "test"))

    assert digest_of(0) == digest_of(0) != digest_of(1)


def test_caches_know_code_that_is_in_no_file() -> None:
    def digest_of(run: Callable[[Tensor], Tensor], make: Callable[[Any], nn.Module]) -> str:
        return digest(Subject(make(Elementwise(run)), {"x": X}, "test"))

    by_fx = torch.fx.symbolic_trace
    assert digest_of(torch.sin, by_fx) == digest_of(torch.sin, by_fx) != digest_of(torch.cos, by_fx)
    by_jit = partial(torch.jit.trace, example_inputs=X)
    assert digest_of(torch.sin, by_jit) != digest_of(torch.cos, by_jit)


class Elementwise(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
