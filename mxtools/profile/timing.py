"""Where the time goes: the kernels that a runtime runs, by the module calls for which they work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files.reading import read_model
from mxtools.files.temporary import Scratch
from mxtools.graph.functions import every_node
from mxtools.graph.index import Graph
from mxtools.graph.rename import fresh
from mxtools.pipeline.working_model import WorkingModel
from mxtools.profile.attribution import Attribution
from mxtools.profile.kernels import ONNX_RUNTIME, Kernel, Profile, read_profile
from mxtools.runtime.session_values import run_session
from mxtools.runtime.sessions import Level, load_session, one_line_errors, session_options
from mxtools.scopes.hierarchy import ROOT_CALL

WARM_UP = 3
"""Runs that are not counted."""
_OPTIMISED = "optimised.onnx"


@dataclass
class Timed:
    """One call of a module: the kernels for its own work, and the calls below it. Times are in microseconds."""

    scope: str
    tag: str
    kernels: list[Kernel] = field(default_factory=list)
    children: list[Timed] = field(default_factory=list)

    @property
    def own(self) -> float:
        """The time of its own kernels."""
        return sum(kernel.time for kernel in self.kernels)

    @property
    def time(self) -> float:
        """The time of its kernels and of all below it."""
        return self.own + sum(child.time for child in self.children)

    def all_kernels(self) -> list[Kernel]:
        """Return its kernels and those of all calls below it."""
        return [kernel for timed in self.every() for kernel in timed.kernels]

    def every(self) -> Iterator[Timed]:
        """Yield it and all calls below it, callers first."""
        yield self
        for child in self.children:
            yield from child.every()


@dataclass(frozen=True)
class Timing:
    """A profile by module; `unknown` are the kernels that could not be attributed to a module."""

    profile: Profile
    root: Timed
    unknown: tuple[Kernel, ...]

    @property
    def total(self) -> float:
        """The time of all kernels."""
        return sum(kernel.time for kernel in self.profile.kernels)

    @property
    def attributed(self) -> float:
        """The share of the time that is attributed to a module."""
        lost = sum(kernel.time for kernel in self.unknown)
        return 1 - lost / self.total if self.total else 1.0


def run(
    model: WorkingModel,
    level: Level = Level.ALL,
    runs: int = 20,
    threads: int = 0,
    providers: Sequence[str] | None = None,
) -> Timing:
    """Run a tagged model in ONNX Runtime, optimised, with its profiler; with 0 `threads`, ONNX Runtime chooses.

    Raises InputError if it does not run, or no node has a scope; UsageError for less than one run.
    """
    if runs < 1:
        raise UsageError(f"{runs} runs are none", "ask for one or more")
    model = _named(model)
    annotations = model.annotations
    given = model.inputs()
    with Scratch() as folder:
        options = _options(level, folder)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.intra_op_num_threads = threads
        opened = load_session(model.proto, model.weights, options, providers)
        names = [value.name for value in opened.get_outputs()]
        with one_line_errors():
            for _ in range(WARM_UP + runs):
                run_session(opened, names, given)
        profile = read_profile([Path(opened.end_profiling())])
        kernels = tuple(replace(kernel, times=kernel.times[WARM_UP:]) for kernel in profile.kernels)
        profile = replace(profile, kernels=kernels, runs=profile.runs[WARM_UP:])
        return _timing(profile, Attribution(annotations, _optimised(folder)))


def read(model: WorkingModel, files: Sequence[Path]) -> Timing:
    """Read a runtime's profile of a tagged model; InputError if it is not a profile, or no node has a scope.

    Kernels of ONNX Runtime have the names of nodes that its optimiser made. So the model is optimised again, at the
    level that explains most of the names.
    """
    profile = read_profile(files)
    model = _named(model)
    annotations = model.annotations
    found = Attribution(annotations)
    names = {kernel.name for kernel in profile.kernels}
    if profile.runtime == ONNX_RUNTIME and not names <= found.names.nodes.keys():
        optimised = (_optimise(model, level) for level in (Level.ALL, Level.EXTENDED, Level.BASIC))
        known = [graph for graph in optimised if graph]
        best = max(known, key=lambda graph: len(names & {node.name for node in graph.nodes}), default=None)
        found = Attribution(annotations, best)
    return _timing(profile, found)


def name_nodes(model: ModelProto) -> None:
    """Name the nodes of a model, in place, that have no name or share it with another node."""
    nodes = list(every_node(model.graph.node))
    taken = {node.name for node in nodes}
    seen = {""}
    for number, node in enumerate(nodes):
        if node.name in seen:
            node.name = fresh(f"{node.op_type}_{number}", taken)
            taken.add(node.name)
        seen.add(node.name)


def _named(model: WorkingModel) -> WorkingModel:
    """Return a copy of a tagged model in which every node has a unique name."""
    model.require_tagged()
    copy = model.copy()
    with copy.changing() as proto:
        name_nodes(proto)
    return copy


def _options(level: Level, folder: Path) -> Any:  # noqa: ANN401 - an untyped library's options
    """Return options that write the optimised model to a folder, with its weights in another file."""
    options = session_options(level)
    options.optimized_model_filepath = str(folder / _OPTIMISED)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return options


def _optimised(folder: Path) -> Graph:
    return Graph(read_model(folder / _OPTIMISED, _OPTIMISED)[0])


def _optimise(model: WorkingModel, level: Level) -> Graph | None:
    """Return the graph that ONNX Runtime makes of a model, None if it cannot load it."""
    with Scratch() as folder:
        try:
            load_session(model.proto, model.weights, _options(level, folder))
        except InputError:
            return None
        return _optimised(folder)


def _timing(profile: Profile, attribution: Attribution) -> Timing:
    """Put kernels into the tree of calls; calls are in the order of their first kernels."""
    hierarchy = attribution.hierarchy
    found = {ROOT_CALL: Timed(hierarchy.scopes[ROOT_CALL], hierarchy.tags[ROOT_CALL])}
    unknown = []
    for kernel in profile.kernels:
        call = attribution.call_of(kernel.name, kernel.nodes)
        if call is None:
            unknown.append(kernel)
            continue
        for at in reversed(list(hierarchy.lineage(call))):
            if at not in found:
                found[at] = Timed(hierarchy.scopes[at], hierarchy.tags[at])
                found[hierarchy.parent[at]].children.append(found[at])
        found[call].kernels.append(kernel)
    return Timing(profile, found[ROOT_CALL], tuple(unknown))
