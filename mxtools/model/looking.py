"""What a model can be asked: its modules, its tree, what it computes, whether it is right, where its time goes."""

from __future__ import annotations

import glob
import html
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mxtools.errors import UsageError
from mxtools.graph.index import graph_inputs
from mxtools.model.given import (
    Inputs,
    PathText,
    array_values,
    model_of,
    one_of,
    paths,
    require_inputs,
    selection_of,
    texts,
    trace_of,
)
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.session_values import Value
from mxtools.scopes.modules import Module, ModuleIndex
from mxtools.scopes.selection import Selection, selected_calls

if TYPE_CHECKING:
    from mxtools.comparison.comparison import Comparison
    from mxtools.profile.report import ProfileReport
    from mxtools.traces.trace import Trace
    from mxtools.validate.findings import Finding, Mended
    from mxtools.verify.report import Verified
    from mxtools.views.html import Earlier
    from mxtools.views.tree import Branch

MOST_SHOWN = 1000
"""The most module calls that a notebook shows, because it keeps what it shows in its file."""


class LookingModel(WorkingModel):
    """The half of the public model that leaves it as it is."""

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs that a run needs."""
        return [value.name for value in graph_inputs(self.proto)]

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs."""
        return [value.name for value in self.proto.graph.output]

    def modules(
        self,
        *scopes: str,
        tag: Iterable[str] = (),
        class_name: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> list[Module]:
        """Return the module calls that have nodes: all of them, or the outermost ones that match the selectors.

        `scopes` are globs: `*` matches within a level, `**` across levels. `tag` is a glob of tags, `class_name` the
        name of a class, `exclude` a glob of scopes to leave out; each can be a string or several. Raises InputError if
        no node has a scope, UsageError, with the nearest scopes, if a selector matches nothing.

        >>> for module in model.modules("encoder.layer.*"):
        ...     print(module.scope, module.class_name, len(module.nodes))
        encoder.layer.0 BertLayer 36
        encoder.layer.1 BertLayer 36
        """
        self.require_tagged()
        index = self._index
        wanted = selection_of(scopes, tag, class_name, exclude)
        if wanted == Selection():
            return index.modules(index.nodes)
        calls = selected_calls(self.annotations, wanted)
        return index.modules(self.annotations.hierarchy.outermost(calls))

    def module(self, scope: str = ".") -> Module:
        """Return the module call with a scope, by default the whole model; UsageError if no node has the scope.

        >>> model.module("pooler").operators
        {'Gather': 1, 'Gemm': 1, 'Tanh': 1}
        """
        if scope == ".":
            self.require_tagged()
            return self._index.modules([0])[0]
        return self.modules(glob.escape(scope))[0]

    def run(
        self,
        inputs: Inputs | None = None,
        outputs: Iterable[str] | None = None,
        providers: Iterable[str] | None = None,
    ) -> dict[str, Value]:
        """Run the model in ONNX Runtime; return all `outputs`, or those that you name, as numpy arrays by name.

        Types that numpy lacks go in and come out as wider ones: bfloat16 and float8 as float32, int4 as int8. A
        sequence is a list of arrays.

        Without `inputs`, the model runs on recorded inputs, or else on made ones. Raises InputError if it does not run,
        and UsageError if a provider is not there.

        >>> {name: array.shape for name, array in model.run().items()}
        {'last_hidden_state': (1, 12, 32), 'pooler_output': (1, 32)}
        """
        from mxtools.runtime.session_values import run_session
        from mxtools.runtime.sessions import Level, load_session, one_line_errors, session_options

        sessions = self.once(_sessions)
        key = texts(providers or ())
        if key not in sessions:
            self.write_annotations()
            sessions[key] = load_session(self.proto, self.weights, session_options(Level.ALL), key or None)
        opened = sessions[key]
        names = texts(outputs) if outputs is not None else self.output_names
        with one_line_errors():
            feeds = self.inputs() if inputs is None else inputs
            require_inputs(feeds, self)
            return dict(zip(names, run_session(opened, names, feeds), strict=True))

    def tree(self, dims: Mapping[str, int] | None = None) -> Branch:
        """Return the module tree: for each call its nodes, parameters, bytes, multiply-adds, activations, and children.

        `dims` are sizes of symbolic dimensions. Raises InputError if no node has a scope, UsageError if the model has
        no such dimension.

        >>> root = model.tree()
        >>> root.class_name, root.nodes, root.parameters
        ('BertModel', 85, 24384)
        """
        from mxtools.functions.folded import unfolded
        from mxtools.views.tree import tree

        self.require_tagged()
        model = unfolded(self)
        return tree(model.annotations, model.costs(dims))

    def text(self) -> str:
        """Return the model as text, module by module, without names that exporters make up, to compare it with others.

        >>> [line for line in model.text().splitlines() if line.startswith("module pooler")]
        ['module pooler BertPooler', 'module pooler.dense Linear', 'module pooler.activation Tanh']
        """
        from mxtools.tools.module_text import module_text

        self.write_annotations()
        return module_text(self)

    def select(
        self,
        *scopes: str,
        tag: Iterable[str] = (),
        class_name: Iterable[str] = (),
        op: Iterable[str] = (),
        exclude: Iterable[str] = (),
        format: str = "names",  # noqa: A002 - as the command calls it
        device: str = "cpu",
    ) -> list[str] | dict[str, Any]:
        """Return the names of the nodes of modules, in the form that another tool takes.

        The selectors are those of `modules`; `op` selects operators. `format` is "names" or "tensors" for lists;
        "ort-quant", "float16", "nncf", "modelopt", "quark", "aimet", "olive", and "layer-annotation" and "ort-names"
        (with `device`) give keyword arguments or settings of these tools, "tensorrt" arguments of trtexec. Raises
        UsageError if nothing matches, InputError if nodes share a name or have none.

        >>> list(model.select("encoder.layer.1", format="ort-quant"))
        ['nodes_to_exclude']
        """
        from mxtools.tools.node_lists import FORMATS, Format, select

        wanted, write = selection_of(scopes, tag, class_name, exclude), FORMATS[one_of(Format, format, "format")]
        return write(select(self, wanted, texts(op), device))

    def compare(self, other: LookingModel, inputs: Inputs | None = None, trace: Trace | None = None) -> Comparison:
        """Compare with another tagged model, module by module: nodes, weights, interface, and results.

        Results are compared only with `inputs` or a recorded `trace`, on which both models run. Raises InputError if a
        model has no scopes, or does not run.

        >>> model.compare(model).differing(0)
        []
        """
        from mxtools.comparison.comparison import compare
        from mxtools.functions.folded import unfolded

        known = inputs is not None or trace is not None
        one, two = unfolded(self.knowing(trace, inputs) if known else self), unfolded(model_of(other))
        found = compare(one, two)
        if known:
            from mxtools.comparison.numbers import compare_numbers

            compare_numbers(found, one, two)
        return found

    def verify(
        self,
        trace: Trace | None = None,
        tolerance: float | None = None,
        isolate: bool = False,
        against: WorkingModel | None = None,
        *,
        metric: str = "relative",
        tolerances: Mapping[str, float] | None = None,
    ) -> Verified:
        """Compare what each module returns with what PyTorch's module returned, on the recorded inputs.

        With `against`, another tagged model, compare with what its modules return, on its inputs. `tolerance` is the
        largest error that still counts as equal; the default depends on the types of the weights. `metric` says what is
        an error: "relative", that is, the largest difference divided by the largest value, "relative-l2", "max-abs",
        "cosine" or "sqnr" (in dB); for the last two, `tolerance` is the smallest value that counts as equal.
        `tolerances` has others by class: `{"LayerNorm": 1e-5}`. With `isolate`, each module is also run alone, on the
        inputs that PyTorch's module had. Raises UsageError if there are no recorded values or an argument is wrong,
        InputError if a graph does not run.

        >>> found = model.verify(mxtools.load_trace("bert.trace.json"))
        >>> found.first is None, found.furthest.distance.relative < 1e-4
        (True, True)
        >>> model.verify(against=model).furthest.distance.relative
        0.0
        """
        from mxtools.files.temporary import Scratch
        from mxtools.functions.folded import unfolded
        from mxtools.runtime.tolerances import EXACT, SAME, Metric, tolerance_of
        from mxtools.verify import verification

        exact = SAME if against else EXACT
        limit = tolerance_of(self.proto, self.graph, tolerance, Metric.named(metric), tolerances, exact)
        if against is not None:
            with Scratch() as folder:
                return verification.against(unfolded(self), unfolded(model_of(against)), limit, folder).report(isolate)
        return verification.verify(unfolded(self.knowing(trace)), limit, isolate)

    def validate(self, trace: Trace | None = None) -> list[Finding]:
        """Check the model, its tags, and whether the trace fits the model; return the findings.

        >>> model.validate()
        []
        """
        from mxtools.validate.findings import validate

        self.write_annotations()
        return validate(self.knowing(trace))

    def repair(self, trace: Trace | None = None) -> tuple[list[Mended], list[Finding]]:
        """Mend what needs no judgement, in place; return the repairs, and the findings that remain.

        >>> model.repair()
        ([], [])
        """
        from mxtools.validate.findings import repair

        with self.unchanged_on_error(), self.changing():
            return repair(self.knowing(trace))

    def profile(
        self,
        inputs: Inputs | None = None,
        *,
        files: PathText | Iterable[PathText] = (),
        level: str = "all",
        runs: int = 20,
        threads: int = 0,
        providers: Iterable[str] | None = None,
        memory: bool = False,
    ) -> ProfileReport:
        """Return the time that each module call takes, in microseconds.

        ONNX Runtime runs the model `runs` times, optimised to a `level` ("none", "basic", "extended", "all"), on
        `inputs`, or else on recorded or made ones; with 0 `threads` it chooses the number itself. With `files`, nothing
        is run: they are a profile that ONNX Runtime, TensorRT or OpenVINO wrote. With `memory`, the model runs once
        more, not optimised, and ONNX Runtime's arena says what the values between nodes take. Raises InputError if this
        fails.

        >>> report = model.profile(runs=3)
        >>> report.modules[0].scope, report.attributed > 0.9
        ('.', True)
        """
        from mxtools.functions.folded import unfolded
        from mxtools.profile import timing
        from mxtools.profile.memory import memory_of
        from mxtools.profile.report import report
        from mxtools.runtime.sessions import Level

        known, given, optimised = unfolded(self.knowing(None, inputs)), paths(files), one_of(Level, level, "level")
        chosen = texts(providers or ()) or None
        found = timing.read(known, given) if given else timing.run(known, optimised, runs, threads, chosen)
        return report(found, memory=memory_of(known) if memory else None)

    def view(
        self,
        path: PathText,
        format: str = "html",  # noqa: A002 - as the command calls it
        depth: int | None = None,
        *,
        metrics: PathText | Iterable[PathText] = (),
        against: LookingModel | None = None,
        statistics: bool = False,
    ) -> Path:
        """Write the graph as a page to browse, or as a file for other viewers; return its path.

        `format` is "html", "model-explorer", "netron", "graphml", "mermaid" or "dot". `depth` is the number of levels
        that mermaid and dot open, by default 2. `metrics` are JSON files with numbers by scope. With `against`, the
        page also shows that model, and marks the modules that differ. With `statistics`, it shows statistics of the
        elements of the weights. Raises InputError if no node has a scope, OutputError if the file cannot be written.

        >>> model.view("bert.html").stat().st_size > 10_000
        True
        """
        from mxtools.files import regular
        from mxtools.files.atomic import write_text
        from mxtools.views.build import structure
        from mxtools.views.metric_files import add_metrics
        from mxtools.views.text import view_text

        if format != "html" and (against is not None or statistics):
            raise UsageError(f"{format} shows one graph, without statistics", 'leave them out, or give format="html"')
        shown, first = structure(self, self.name, statistics), "parameters" if against is None else ""
        for file in paths(metrics):
            first = add_metrics(shown, regular.read_bytes(file), str(file)).names[0]
        earlier = None if against is None else self._beside(against, statistics)
        write_text(view_text(shown, format, depth, first, earlier), Path(path))
        return Path(path)

    def _beside(self, earlier: LookingModel, statistics: bool) -> Earlier:
        """Return an earlier model in the form in which the page shows it beside this one, with the differences."""
        from mxtools.views.build import structure
        from mxtools.views.html import Earlier

        found = earlier.compare(self)
        name = earlier.name if earlier.name != self.name else f"{earlier.name} (before)"
        changes, interface = found.notes(name, self.name), [*map(str, found.interface)]
        return Earlier(structure(earlier, name, statistics), changes, interface)

    def knowing(self, trace: Trace | None, inputs: Inputs | None = None) -> Self:
        """Return the same graph with another trace, or with inputs to run on; without both, return the model itself."""
        if trace_of(trace) is None and inputs is None:
            return self
        self.write_annotations()
        other = self.with_proto(self.proto)
        if trace is not None:
            other.sidecar, other.values = trace.sidecar, trace.values
        if inputs is not None:
            other.values = array_values(inputs, self)
        return other

    @property
    def _index(self) -> ModuleIndex:
        """The modules of the annotations as they are now."""
        self.write_annotations()  # this drops an index of earlier annotations
        return self.once(_module_index)

    def __repr__(self) -> str:
        """Return name, number of nodes and, if the model is tagged, of module calls, in one line."""
        nodes = f"{len(self.graph.nodes)} nodes"
        if not self.is_tagged:
            return f"<Model {self.name}: {nodes}, not tagged>"
        index = self._index
        return f"<Model {self.name}: {nodes} in {len(index.nodes)} module calls of {index.modules([0])[0].class_name}>"

    def _repr_html_(self) -> str:
        """Return the module tree as HTML that opens level by level; notebooks show it."""
        from mxtools.views.tree import tree_html

        return (
            tree_html(_outer(self.tree(), MOST_SHOWN)) if self.is_tagged else f"<code>{html.escape(repr(self))}</code>"
        )


def _outer(branch: Branch, most: int) -> Branch:
    """Return a copy of a tree with only the branches nearest to its root: `most` of them, or a few fewer."""
    level, kept = [branch], 1
    inside: dict[str, list[Branch]] = {}
    while level and kept + (below := sum(len(inner.children) for inner in level)) <= most:
        inside |= {inner.scope: inner.children for inner in level}
        kept += below
        level = [child for inner in level for child in inner.children]
    for inner in level:
        inside[inner.scope] = inner.children[: max(most - kept, 0)]
        kept += len(inside[inner.scope])

    def copied(inner: Branch) -> Branch:
        return replace(inner, children=[copied(child) for child in inside.get(inner.scope, ())])

    return copied(branch)


def _module_index(model: WorkingModel) -> ModuleIndex:
    return ModuleIndex(model.annotations)


def _sessions(model: WorkingModel) -> dict[tuple[str, ...], Any]:  # noqa: ARG001 - `once` gives the model
    return {}
