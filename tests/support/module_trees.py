"""Random trees of modules, as people nest them, and what PyTorch runs in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Spec = Any
"""A leaf's name, or a tuple of a kind and what it holds."""

WIDTH = 4
LEAVES = ("linear", "relu", "tanh", "norm", "identity", "dropout")

leaves = st.sampled_from(LEAVES)


def _around(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["sequential", "list", "dict"]), several),
        st.tuples(st.sampled_from(["residual", "repeated", "tied", "method", "hooked", "given", "keyword"]), inner),
        st.tuples(st.just("borrowed"), inner, inner),
    )


trees = st.recursive(leaves, _around, max_leaves=8)


class Chain(nn.Module):
    """Calls the modules of a list or a dictionary, each with what the one before returned."""

    def __init__(self, parts: nn.ModuleList | nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values() if isinstance(self.parts, nn.ModuleDict) else self.parts:
            x = part(x)
        return x


class Around(nn.Module):
    """Calls a module in one of the ways in which people do."""

    def __init__(self, how: str, inner: nn.Module, other: nn.Module | None = None) -> None:
        super().__init__()
        self.how, self.inner = how, inner
        if how == "tied":
            self.again = inner
        if other is not None:
            self.user = Around("residual", other)
            self.user.__dict__["borrowed"] = inner

    def run(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "repeated":
            return self.inner(self.inner(x) + 1)
        if self.how == "tied":
            return self.again(self.inner(x)) + 1
        if self.how == "borrowed":
            return self.user(self.inner(x))
        result = self.inner(x) + x
        borrowed = self.__dict__.get("borrowed")
        return borrowed(result) + 1 if borrowed else result


class ByMethod(nn.Module):
    """Uses a module through a method that is not `forward`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.tower = Around("method", inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.tower.run(x) - 1


class ByKeyword(nn.Module):
    """Gives its module arguments by name, of which it does not use one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = Chain(nn.ModuleList([inner]))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x.tanh())


def build(spec: Spec) -> nn.Module:
    """Return the modules that a spec describes."""
    if isinstance(spec, str):
        return {
            "linear": lambda: nn.Linear(WIDTH, WIDTH),
            "relu": nn.ReLU,
            "tanh": nn.Tanh,
            "norm": lambda: nn.LayerNorm(WIDTH),
            "identity": nn.Identity,
            "dropout": lambda: nn.Dropout(0.5),
        }[spec]()
    kind, inner, *other = spec
    if kind in ("sequential", "list", "dict"):
        parts = [build(part) for part in inner]
        if kind == "sequential":
            return nn.Sequential(*parts)
        return Chain(
            nn.ModuleList(parts) if kind == "list" else nn.ModuleDict({f"k{i}": p for i, p in enumerate(parts)})
        )
    if kind == "method":
        return ByMethod(build(inner))
    if kind == "keyword":
        return ByKeyword(build(inner))
    module = Around(kind, build(inner), *map(build, other))
    if kind == "hooked":
        module.register_forward_hook(lambda _module, _given, result: result * 3 + 1)
    if kind == "given":
        module.register_forward_pre_hook(lambda _module, given: (given[0] - 2,))
    return module


def model_of(spec: Spec) -> nn.Module:
    """Return a model with drawn weights, the same for the same spec."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), build(spec)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) / 10)
    return model


@dataclass
class Ran:
    """A call as PyTorch ran it: its scope, and copies of what it was given and returned."""

    scope: str
    path: str
    given: list[Tensor]
    returned: list[Tensor] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)


def run(model: nn.Module, x: Tensor) -> list[Ran]:
    """Return the calls of a forward pass, in the order in which they began, with scopes by the words of the design.

    A scope is the caller's and the first name of the module below the caller's; the whole name where the caller does
    not own the module; with `@k` where that is taken.
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    calls: list[Ran] = []
    running: list[Ran] = []
    taken: set[str] = set()

    def begin(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        given = [value.clone() for value in (*args, *kwargs.values())]
        scope = path = ""
        if running:
            above = running[-1].path + "." if running[-1].path else ""
            path = next((name for name in names[module] if name.startswith(above)), names[module][0])
            scope = ".".join(part for part in (running[-1].scope, path.removeprefix(above)) if part)
            numbers = [scope, *(f"{scope}@{k}" for k in range(1, 1000))]
            scope = next(number for number in numbers if number not in taken)
            taken.add(scope)
        calls.append(Ran(scope, path, given))
        running.append(calls[-1])

    def end(_module: nn.Module, _given: Any, result: Tensor) -> None:
        running.pop().returned = [result.clone()]

    with ExitStack() as stack, torch.no_grad():
        for module in names:
            stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end).remove)
        model(x)
    return calls
