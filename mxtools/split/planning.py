"""Plan a split: the parts of a model by a budget or a placement, and what is known of them before they are written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mxtools.costs.costs import Costs
from mxtools.costs.dimensions import symbols
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.selection import Selection, separate_calls
from mxtools.split.division.budget import Budget, divide
from mxtools.split.division.loads import Measure
from mxtools.split.division.placement import placed
from mxtools.split.figures import figures_of
from mxtools.split.manifest import describe
from mxtools.split.parts import Part, parts_of, split
from mxtools.split.records import Manifest, Plan

ASSUMED = 8
"""The size of symbolic dimensions that nobody gives a size; made inputs have the same."""


def _costs(model: WorkingModel, sizes: Mapping[str, int]) -> tuple[Costs, dict[str, int]]:
    """Return the costs of a model for sizes of symbolic dimensions, and these with those that are assumed."""
    all_sizes = dict.fromkeys(symbols(model.proto), ASSUMED) | dict(sizes)
    return model.costs(sizes, other=ASSUMED), all_sizes


def planned(
    model: WorkingModel,
    wanted: Budget | Mapping[str, str] | None,
    selections: Collection[Selection] = (),
    depth: int | None = None,
    exclude: tuple[str, ...] = (),
    sizes: Mapping[str, int] | None = None,
    figures: bool = False,
) -> tuple[list[Part], Manifest]:
    """Return the parts of a model, and their manifest.

    A budget divides the model between modules, of which those that are selected stay whole; a placement, between the
    places that it names for globs of scopes. Without either, the selected modules are parts. The manifest says what
    parts come to if there is a budget, or if `figures` are wanted; symbolic dimensions have `sizes`, others ASSUMED.
    Raises what `divide`, `placed` and `split` raise, InputError if no node has a scope.
    """
    model.require_tagged()
    if isinstance(wanted, Budget):
        is_selected = bool(selections) or depth is not None or bool(exclude)
        whole = separate_calls(model.annotations, selections, depth, exclude) if is_selected else ()
        return _by_budget(model, wanted, whole, sizes or {})
    if wanted is None:
        parts = split(model, selections, depth, exclude)
    else:
        parts = parts_of(model.annotations, *placed(model, wanted))
    manifest = describe(model.graph, parts)
    return parts, _with_figures(manifest, model, parts, *_costs(model, sizes or {})) if figures else manifest


def _by_budget(
    model: WorkingModel, budget: Budget, whole: Collection[int], sizes: Mapping[str, int]
) -> tuple[list[Part], Manifest]:
    """Return the parts that a budget makes of a model, and their manifest; raises what `divide` raises."""
    costs, all_sizes = _costs(model, sizes)
    division = divide(model, budget, whole, costs)
    parts = parts_of(model.annotations, division.groups)
    manifest = _with_figures(describe(model.graph, parts, "part"), model, parts, costs, all_sizes)
    amounts = division.amounts
    if division.measure is Measure.BYTES:  # copies of constants and shapes may be fewer than they were taken for
        amounts = [part.figures.bytes for part in manifest.parts if part.figures]
    plan = Plan(
        measure=division.measure,
        largest=max(amounts),
        mean=sum(amounts) / len(amounts),
        bound=min(division.bound, max(amounts)),
    )
    return parts, manifest.model_copy(update={"plan": plan})


def _with_figures(
    manifest: Manifest, model: WorkingModel, parts: Sequence[Part], costs: Costs, sizes: Mapping[str, int]
) -> Manifest:
    """Return a manifest that also says what each part comes to."""
    found = zip(manifest.parts, figures_of(model, parts, costs), strict=True)
    described = tuple(part.model_copy(update={"figures": figures}) for part, figures in found)
    return manifest.model_copy(update={"parts": described, "sizes": dict(sizes) or None})
