"""The model of the public API: everything that a command does, on an object in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from onnx import ModelProto

from mxtools.files.temporary import Scratch
from mxtools.model.looking import Inputs, LookingModel, PathText, array_values, selection_of, texts
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    import onnx_ir

    from mxtools.cut.declarations import Dims
    from mxtools.passes.record_absent import TagReport
    from mxtools.pipeline.base import Pass
    from mxtools.pipeline.pipeline import PipelineReport
    from mxtools.split.result import Split
    from mxtools.traces.trace import Trace


class Model(LookingModel):
    """An ONNX model without its weights, which stay in their file until something needs them.

    `mxtools.load`, `mxtools.from_proto` and `mxtools.export` make one. What says something of it (`tag`, `untag`,
    `carry`, `apply`, `repair`) changes it in place and returns a report; what makes another model (`filter`, `split`,
    `graft`, `optimize`, `wrap`, `copy`) leaves it as it was.

    `model.proto` is the graph as the library works on it: its large weights are references, which no other library
    understands. Give `model.to_proto()` to others.

    >>> model = mxtools.load("bert.tagged.onnx")
    >>> model
    <Model bert.tagged.onnx: 85 nodes in 39 module calls of BertModel>
    >>> layer = model.filter("encoder.layer.0")
    >>> outputs = layer.run()
    >>> [array.shape for array in outputs.values()]
    [(1, 12, 32)]
    """

    def save(self, path: PathText) -> None:
        """Write the model to a file, with the bytes of just the weights that it uses.

        What came inline is written inline, what came external to `NAME.onnx.data` beside the file. The same model gives
        the same bytes; a failure leaves what was there. Raises OutputError where the file cannot be written, UsageError
        where inline weights pass 2 GiB.

        >>> model.filter("encoder.layer.0").save("layer0.onnx")
        """
        from mxtools.files.writing import write_model

        self.write_annotations()
        write_model(self.proto, self.weights, Path(path))

    def to_proto(self) -> ModelProto:
        """Return the model with its weights, for every other library; UsageError where it would pass 2 GiB.

        >>> onnx.checker.check_model(model.to_proto())
        """
        from mxtools.files.writing import materialise

        self.write_annotations()
        return materialise(self.proto, self.weights)

    def to_ir(self) -> onnx_ir.Model:
        """Return the model as an `onnx_ir.Model`, with its weights; UsageError where it would pass 2 GiB.

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
        """Project the module hierarchy onto every node, in place; return how many nodes rest on which evidence.

        The hierarchy is that of `trace`, or of `earlier`, the tagged model that a tool made this one from; without
        either it is what the file itself tells. Recorded values of the trace, or `inputs` to run on, are evidence too.
        `strategy` names whose passes run (`mxtools.list_strategies()`); with `strict` a node of which nothing is known
        is an error. `explain` names nodes, of which the report then says what each source said and which pass decided.
        `carriers` are further places to copy tags to: `doc_string`, `rename`, `output_names`,
        `embed_trace`, `namespace`, `layer_annotation`.

        Raises CheckError under `strict`, InputError where the trace is of another model, UsageError for unknown names.

        >>> model = mxtools.load("bert.onnx")
        >>> report = model.tag(mxtools.load_trace("bert.trace.json"))
        >>> report.nodes, sorted(report.evidence)
        (85, ['dataflow', 'metadata'])
        """
        from mxtools.evidence.statements import Witness
        from mxtools.passes.carry import Carry
        from mxtools.passes.record_absent import TagReport
        from mxtools.strategies import table

        if trace is not None:
            self.sidecar = trace.sidecar
            self.values = trace.values
        if inputs is not None:
            self.values = array_values(inputs)
        self.previous = earlier
        chosen = table.get(strategy or ("previous" if earlier else table.DEFAULT))
        witness = Witness(self, explain)
        report = chosen.passes(strict, Carry(**carriers)).run(self, witness.observe).last(TagReport)
        return replace(report, explained=witness.histories())

    def untag(self, carriers: bool = False) -> None:
        """Remove the tags that mxtools wrote, in place; with `carriers` also their copies in other places.

        >>> model.untag()
        >>> model.is_tagged
        False
        """
        from mxtools.passes.untag import Untag

        self.apply(Untag(carriers))

    def carry(self, **carriers: bool) -> None:
        """Copy the tags to further places, in place: `doc_string=True`, `rename=True`, … as for `tag`.

        >>> model.carry(rename=True)
        >>> model.module("encoder.layer.0").nodes[-1].name
        '/encoder/layer.0/output/LayerNorm/LayerNormalization'
        """
        from mxtools.passes.carry import Carry

        self.apply(Carry(**carriers))

    def apply(self, passes: str | Pass) -> PipelineReport:
        """Run passes over the model, in place: a pass, a pipeline, or its text as `mx run -p` takes it.

        Returns a report of each pass; an error of one has a note that names it and those before it.

        >>> report = model.apply("untag,project-names,resolve-auxiliary")
        >>> [step.step.name for step in report.steps]
        ['untag', 'project-names', 'resolve-auxiliary']
        """
        from mxtools.pipeline.pipeline import Pipeline

        pipeline = Pipeline.parse(passes) if isinstance(passes, str) else Pipeline((passes,))
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
        """Return a model of just the selected modules, which runs on its own.

        Selectors are those of `modules`, and `op` operators; `from_tensor` and `to_tensor` are tensors that it begins
        and ends at. `auxiliary` ("context", "all" or "none") is how much of what leads to the selection comes along;
        `io` is "tensors", or "module", which names inputs and outputs as the module's `forward` does and needs a trace.
        With `verify` the part and the whole model are run and compared. `shapes` and `types` are those of tensors of
        which they cannot be inferred: `{"hidden": (1, "sequence", 64)}`, `{"hidden": "float32"}`.

        Raises UsageError where nothing matches, AbsentError where the module cannot be cut out, CheckError where the
        part computes something else than the whole.

        >>> layer = model.filter("encoder.layer.1", verify=True)
        >>> len(layer.input_names), layer.output_names
        (2, ['last_hidden_state'])
        """
        from mxtools.cut.filtering import Auxiliary, CutRequest, Io, filter_model

        wanted = selection_of(scopes, tag, class_name, exclude)
        ends = texts(op), texts(from_tensor), texts(to_tensor)
        part = self.knowing(trace).copy()
        declared = dict(shapes or {}), dict(types or {})
        filter_model(part, CutRequest(wanted, *ends, Auxiliary(auxiliary), Io(io), verify, *declared))
        part.name = f"{', '.join(scopes) or 'a part'} of {self.name}"
        part.values = None  # they are the whole model's inputs
        return part

    def split(
        self,
        *scopes: str,
        depth: int | None = None,
        class_name: Iterable[str] = (),
        exclude: Iterable[str] = (),
        shapes: Mapping[str, Dims] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Split[Self]:
        """Return the model in parts: one for each outermost call that is selected, and the rest.

        `scopes` are globs; with `depth` the calls that many levels below the root are parts, and leaves above that.
        `shapes` and `types` are those of `filter`.
        Raises InputError where no node has a scope, UsageError where nothing is selected or one selected call lies in
        another, AbsentError where a call cannot be a part of its own.

        >>> [part.name for part in model.split("encoder.layer.*")]
        ['the rest', 'encoder.layer.0', 'encoder.layer.1', 'the rest']
        """
        from mxtools.cut.declarations import declare
        from mxtools.split.parts import split
        from mxtools.split.result import Split

        wanted = [*(Selection((scope,)) for scope in scopes), *(Selection(classes=(c,)) for c in texts(class_name))]
        whole = self.copy()
        declare(whole, shapes or {}, types or {})
        return Split(whole, split(whole, wanted, depth, texts(exclude)))

    def graft(self, part: Model, verify: bool = False) -> Self:
        """Return a model in which a part that `filter` cut out, and that was changed since, is back in its place.

        The place is told by the names of the part's inputs and outputs. With `verify` the model is run without and with
        the part. Raises InputError where the part does not fit, CheckError where the model computes something else.

        >>> model.graft(model.filter("encoder.layer.0")).to_proto() == model.to_proto()
        True
        """
        from mxtools.graft.put_back import put_back

        whole = self.copy()
        put_back(whole, part.copy(), verify)
        return whole

    def optimize(self, tool: str) -> Self:
        """Return a model that "onnxscript", "onnxslim" or "ort-basic" optimised, with the tags projected again.

        Raises UsageError where there is no such tool, or it is not installed, InputError where it fails.

        >>> model.optimize("ort-basic").is_tagged
        True
        """
        from mxtools.passes.optimize import Optimize

        other = self.copy()
        other.apply(Optimize(tool))
        return other

    def wrap(self, command: Sequence[str]) -> Self:
        """Return what another tool makes of the tagged model, with the tags carried over.

        `command` is run without a shell; `{in}` and `{out}` in its arguments stand for the files that it reads and
        writes. What it prints goes to stderr. Raises UsageError where it cannot be run, InputError where it fails.

        >>> model.wrap(["cp", "{in}", "{out}"]).is_tagged
        True
        """
        from mxtools.strategies.wrap import wrap
        from mxtools.tools.external import check_command

        check_command(command)
        self.require_tagged()
        self.write_annotations()
        scratch = Scratch()
        made, _ = wrap(self, command, scratch.folder, sys.stderr.buffer)
        made.weights.kept.append(scratch)
        made.name = self.name
        return made
