"""The model of the public API: everything that a command does, on an object in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from onnx import ModelProto

from mxtools.model.given import (
    Inputs,
    PathText,
    array_values,
    carry_of,
    model_of,
    one_of,
    selection_of,
    texts,
    trace_of,
)
from mxtools.model.rebuilding import RebuiltModel
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir

    from mxtools.cut.declarations import Dims
    from mxtools.passes.record_absent import TagReport
    from mxtools.pipeline.base import Pass
    from mxtools.pipeline.pipeline import PipelineReport
    from mxtools.profile.report import ProfileReport
    from mxtools.split.result import Split
    from mxtools.traces.trace import Trace


class Model(RebuiltModel):
    """An ONNX model without its weights, which stay in their file until something needs them.

    Make one with `mxtools.load`, `mxtools.from_proto` or `mxtools.export`. Methods that add information to it (`tag`,
    `untag`, `carry`, `apply`, `repair`) change it in place and return a report. Methods that make another model
    (`filter`, `split`, `graft`, `fold`, `unfold`, `optimize`, `tune`, `wrap`, `copy`) leave it as it was.

    `model.proto` is the graph that mxtools works on. Its large weights are references, which no other library
    understands; give `model.to_proto()` to other libraries.

    >>> model = mxtools.load("bert.tagged.onnx")
    >>> model
    <Model bert.tagged.onnx: 85 nodes in 39 module calls of BertModel>
    >>> layer = model.filter("encoder.layer.0")
    >>> outputs = layer.run()
    >>> [array.shape for array in outputs.values()]
    [(1, 12, 32)]
    """

    def save(self, path: PathText) -> None:
        """Write the model to a file, with only the weights that it uses.

        Weights that were inline are written inline; external ones are written to `NAME.onnx.data` beside the file. The
        same model always gives the same bytes; a failure leaves existing files as they were. Raises OutputError if the
        file cannot be written, UsageError if inline weights exceed 2 GiB.

        >>> model.filter("encoder.layer.0").save("layer0.onnx")
        """
        from mxtools.files.writing import write_model

        self.write_annotations()
        write_model(self.proto, self.weights, Path(path))

    def to_proto(self) -> ModelProto:
        """Return the model with its weights, for every other library; UsageError if it would exceed 2 GiB.

        >>> onnx.checker.check_model(model.to_proto())
        """
        from mxtools.files.writing import materialise

        self.write_annotations()
        return materialise(self.proto, self.weights)

    def to_ir(self) -> onnx_ir.Model:
        """Return the model as an `onnx_ir.Model`, with its weights; UsageError if it would exceed 2 GiB.

        >>> type(model.to_ir()).__name__
        'Model'
        """
        import onnx_ir

        return onnx_ir.serde.deserialize_model(self.to_proto())

    def tag(
        self,
        trace: Trace | None = None,
        *,
        earlier: Model | None = None,
        inputs: Inputs | None = None,
        strategy: str | None = None,
        strict: bool = False,
        explain: Sequence[str] = (),
        **carriers: bool,
    ) -> TagReport:
        """Project the module hierarchy onto every node, in place; return the number of nodes by evidence.

        The hierarchy comes from `trace`, or from `earlier`, the tagged model from which a tool made this one; without
        both, from the file itself. Recorded values of the trace, or `inputs` to run on, are evidence too. `strategy`
        names the strategy whose passes run (`mxtools.list_strategies()`). With `strict`, a node without any evidence is
        an error. For the nodes in `explain`, the report says what each source said and which pass decided. `carriers`
        are other places to copy tags to: `doc_string`, `rename`, `output_names`, `embed_trace`, `namespace`,
        `layer_annotation`.

        Raises CheckError (only with `strict`), InputError if the trace belongs to another model, UsageError for unknown
        names; the model is then as it was before.

        >>> model = mxtools.load("bert.onnx")
        >>> report = model.tag(mxtools.load_trace("bert.trace.json"))
        >>> report.nodes, sorted(report.evidence)
        (85, ['dataflow', 'metadata'])
        """
        from mxtools.evidence.statements import Witness
        from mxtools.passes.record_absent import TagReport
        from mxtools.strategies import table

        chosen, carry = table.get(strategy or ("previous" if earlier else table.DEFAULT)), carry_of(carriers)
        with self.unchanged_on_error():
            if (known := trace_of(trace)) is not None:
                self.sidecar, self.values = known.sidecar, known.values
            if inputs is not None:
                self.values = array_values(inputs, self)
            self.previous = None if earlier is None else model_of(earlier)
            witness = Witness(self, texts(explain))
            report = chosen.passes(strict, carry).run(self, witness.observe).last(TagReport)
            return replace(report, explained=witness.histories())

    def untag(self, carriers: bool = False) -> None:
        """Remove the tags that mxtools wrote, in place; with `carriers`, also their copies in other places.

        >>> model.untag()
        >>> model.is_tagged
        False
        """
        from mxtools.passes.untag import Untag

        self.apply(Untag(carriers))

    def carry(self, **carriers: bool) -> None:
        """Copy the tags to other places in the model: `doc_string=True`, `rename=True`, … as for `tag`.

        >>> model.carry(rename=True)
        >>> model.module("encoder.layer.0").nodes[-1].name
        '/encoder/layer.0/output/LayerNorm/LayerNormalization'
        """
        self.apply(carry_of(carriers))

    def apply(self, passes: str | Pass) -> PipelineReport:
        """Run passes over the model, in place: a pass, a pipeline, or its text as `mx run -p` takes it.

        Returns the report of each pass. If a pass fails, the model is as it was before all of them, and a note on the
        error names it and those before it.

        >>> report = model.apply("untag,project-names,resolve-auxiliary")
        >>> [step.step.name for step in report.steps]
        ['untag', 'project-names', 'resolve-auxiliary']
        """
        from mxtools.pipeline.pipeline import Pipeline

        pipeline = Pipeline.parse(passes) if isinstance(passes, str) else Pipeline((passes,))
        with self.unchanged_on_error():
            return pipeline.run(self)

    def filter(
        self,
        *scopes: str,
        tag: Iterable[str] = (),
        class_name: Iterable[str] = (),
        op: Iterable[str] = (),
        exclude: Iterable[str] = (),
        from_tensor: Iterable[str] = (),
        to_tensor: Iterable[str] = (),
        auxiliary: str = "context",
        io: str = "tensors",
        verify: bool = False,
        trace: Trace | None = None,
        shapes: Mapping[str, Dims] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a model of only the selected modules, which runs on its own.

        The selectors are those of `modules`; `op` selects operators. The part begins at `from_tensor` and ends at
        `to_tensor`. `auxiliary` ("context", "all" or "none") says which auxiliary nodes come along. `io` is "tensors",
        or "module" for the inputs and outputs of the module's `forward`, which needs a trace. With `verify`, the part
        and the whole model are run and compared. `shapes` and `types` are for tensors for which they cannot be
        inferred: `{"hidden": (1, "sequence", 64)}`, `{"hidden": "float32"}`.

        Raises UsageError if nothing matches, AbsentError if the module cannot be cut out, CheckError if the part
        computes something else than the whole model.

        >>> layer = model.filter("encoder.layer.1", verify=True)
        >>> len(layer.input_names), layer.output_names
        (2, ['last_hidden_state'])
        """
        from mxtools.cut.filtering import Auxiliary, CutRequest, Io, filter_model

        wanted = selection_of(scopes, tag, class_name, exclude)
        ends = texts(op), texts(from_tensor), texts(to_tensor)
        words = one_of(Auxiliary, auxiliary, "choice of auxiliary nodes"), one_of(Io, io, "interface")
        part = self.knowing(trace).copy()
        declared = dict(shapes or {}), dict(types or {})
        filter_model(part, CutRequest(wanted, *ends, *words, verify, *declared))
        part.name = f"{', '.join(scopes) or 'a part'} of {self.name}"
        part.values = None  # these are the whole model's inputs
        return part

    def split(
        self,
        *scopes: str,
        depth: int | None = None,
        class_name: Iterable[str] = (),
        exclude: Iterable[str] = (),
        parts: int | None = None,
        max_bytes: int | None = None,
        max_multiply_adds: int | None = None,
        balance: str | None = None,
        profile: ProfileReport | None = None,
        placement: Mapping[str, str] | None = None,
        dims: Mapping[str, int] | None = None,
        shapes: Mapping[str, Dims] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Split[Self]:
        """Return the model in parts: one for each selected call (the outermost ones), and others for the rest.

        `scopes` are globs. With `depth`, the parts are the calls on that level below the root, and calls above it that
        have none inside. With `parts` or a limit, the model is cut between modules instead, and selected ones stay
        whole; `balance` is "bytes", "multiply-adds", "time" (of a `profile`) or "activations". With `placement`, globs
        of scopes say which place runs what. `dims` are sizes of symbolic dimensions, `shapes` and `types` those of
        `filter`. Raises InputError if no node has a scope, UsageError if nothing is selected or one selected call is
        inside another, AbsentError if a call cannot be a part, CheckError if a limit cannot be kept.

        >>> [part.name for part in model.split("encoder.layer.*")]
        ['the rest', 'encoder.layer.0', 'encoder.layer.1', 'the rest']
        >>> len(model.split(parts=3, balance="multiply-adds"))
        3
        """
        from mxtools.cut.declarations import declare
        from mxtools.functions.folded import unfolded
        from mxtools.split.division.budget import budget_of
        from mxtools.split.planning import planned
        from mxtools.split.result import Split

        wanted = [*(Selection((scope,)) for scope in scopes), *(Selection(classes=(c,)) for c in texts(class_name))]
        times = {module.scope: module.own for module in profile.modules} if profile else None
        budget = budget_of(parts, {"bytes": max_bytes, "multiply-adds": max_multiply_adds}, balance, times)
        whole = unfolded(self.copy())
        declare(whole, shapes or {}, types or {})
        return Split(whole, *planned(whole, budget or placement, wanted, depth, texts(exclude), dims))

    def graft(self, part: Model, verify: bool = False) -> Self:
        """Return a model in which a part that `filter` cut out, and that you changed, is back in its place.

        The names of the part's inputs and outputs say where it belongs. With `verify`, the model is run without and
        with the part. Raises InputError if the part does not fit, CheckError if the results differ.

        >>> model.graft(model.filter("encoder.layer.0")).to_proto() == model.to_proto()
        True
        """
        from mxtools.graft.put_back import put_back

        whole = self.copy()
        put_back(whole, model_of(part).copy(), verify)
        return whole

    def fold(
        self,
        *scopes: str,
        class_name: Iterable[str] = (),
        depth: int | None = None,
        repeated: bool = False,
        nested: bool = False,
        exclude: Iterable[str] = (),
        verify: bool = False,
    ) -> Self:
        """Return a model in which modules are calls of functions, one for all that are equal.

        These modules are folded: the outermost matches of `scopes`, which are globs; modules of a class; modules on the
        level `depth` below the root; with `repeated`, modules that occur more than once; with `nested`, also the
        modules inside of all these. Modules that cannot be functions stay; `model.apply("fold{…}")` reports them. With
        `verify`, the model is run before and after.

        Raises UsageError if nothing is selected, AbsentError if nothing of it can be a function, CheckError if the
        results differ.

        >>> folded = model.fold(repeated=True)
        >>> [function.doc_string for function in folded.proto.functions]
        ['BertLayer: encoder.layer.0, encoder.layer.1']
        """
        from mxtools.passes.fold import Fold

        other = self.copy()
        other.apply(Fold(scopes, texts(class_name), depth, repeated, nested, texts(exclude), verify))
        return other

    def unfold(
        self,
        *scopes: str,
        class_name: Iterable[str] = (),
        function: Iterable[str] = (),
        exclude: Iterable[str] = (),
        verify: bool = False,
    ) -> Self:
        """Return a model in which the nodes of functions replace the calls of these functions.

        Without any selector, all calls are replaced. `scopes` and `class_name` select those in some modules, `function`
        those of some functions. What `fold` folded gets its names and tags back. With `verify`, the model is run before
        and after. Raises UsageError if a selector matches nothing, CheckError if the results differ.

        >>> model.fold(repeated=True).unfold().to_proto() == model.to_proto()
        True
        """
        from mxtools.passes.unfold import Unfold

        other = self.copy()
        other.apply(Unfold(scopes, texts(class_name), texts(function), texts(exclude), verify))
        return other

    def optimize(self, tool: str) -> Self:
        """Return the model as optimised by "onnxscript", "onnxslim" or "ort-basic", with the tags projected again.

        Raises UsageError if there is no such tool or it is not installed, InputError if it fails.

        >>> model.optimize("ort-basic").is_tagged
        True
        """
        from mxtools.passes.optimize import Optimize

        other = self.copy()
        other.apply(Optimize(tool))
        return other
