"""The pass `graft`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from onnx import ModelProto

from mxtools.evidence.absent import borne_calls
from mxtools.files.model_files import read_model
from mxtools.graft.grafting import Grafted, graft
from mxtools.graph.functions import Key, key_of
from mxtools.pipeline.context import Context, Pass, option
from mxtools.scopes.annotations import Annotations, Evidence, read_absent, write_absent
from mxtools.scopes.hierarchy import ROOT_CALL


@dataclass(frozen=True)
class Graft(Pass):
    """Put a part that `filter` cut out, and that was changed since, back in its place."""

    name: ClassVar[str] = "graft"

    part: str = option("ONNX file of the part; '-' is stdin", MISSING)
    data_dir: str | None = option("folder of the part's external data, where it is not the part's own")

    def apply(self, model: ModelProto, context: Context) -> None:
        """Replace what the part was cut from; report, under "graft": nodes removed, added and kept, values renamed.

        Raises InputError where the part cannot be read, or its inputs and outputs do not fit the model.
        """
        before, functions = context.annotations(model), {key_of(f) for f in model.functions}
        part = read_model(self.part, Path(self.data_dir) if self.data_dir else None)
        done = graft(model, context.graph(model), context.weights, part)
        context.report["graft"] = {
            "removed": len(done.removed),
            "added": len(done.added),
            "kept": done.kept,
            "renamed": done.renamed,
        }
        context.forget()
        if any(before.evidence) and (done.added or done.removed):
            scope, tag = _place(before, done)
            after = context.annotations(model)
            _tag(after, scope, tag, _new_nodes(model, after, done, functions))
            context.save()
            _settle_absent(model, before, after, scope)


def _place(before: Annotations, done: Grafted) -> tuple[str, str]:
    """Give scope and tag of what a part replaced: the lowest common ancestor of all of which something was known."""
    nodes = done.removed or done.replaced
    calls = [c for n in nodes if (c := before.call[n]) is not None and before.evidence[n] is not Evidence.ROOT]
    call = before.hierarchy.common(calls) if calls else ROOT_CALL
    return before.hierarchy.scopes[call], before.hierarchy.tags[call]


def _new_nodes(model: ModelProto, after: Annotations, done: Grafted, functions: Collection[Key]) -> list[int]:
    """Give the nodes that came with a part, those of its bodies and functions too."""
    graph = after.graph
    tops = {graph.main[place] for place in done.added}
    regions = {n for n, function in enumerate(model.functions, 1) if key_of(function) not in functions}
    return [n for n in range(len(graph.nodes)) if graph.region[n] in regions or graph.top(n) in tops]


def _tag(after: Annotations, scope: str, tag: str, nodes: list[int]) -> None:
    """Give nodes that bear no scope one."""
    untagged = [n for n in nodes if after.call[n] is None]
    if untagged:
        call = after.hierarchy.find(scope)
        call = after.hierarchy.adopt(scope, tag) if call is None else call
        for node in untagged:
            after.set(node, call, Evidence.DATAFLOW)


def _settle_absent(model: ModelProto, before: Annotations, after: Annotations, scope: str) -> None:
    """Record the scopes that lost all their nodes to the part's, and no longer those that bear nodes again."""
    had, has = ({a.hierarchy.scopes[call] for call in borne_calls(a)} for a in (before, after))
    was = read_absent(model)
    absent = {name: reason for name, reason in was.items() if name not in has}
    lost = had - has - absent.keys()
    absent |= {name: f"merged: {scope}" for name in before.hierarchy.scopes if name in lost}
    if absent != was:
        write_absent(model, absent)
