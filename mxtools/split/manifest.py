"""The manifest of a split model, `manifest.json`: its parts in the order to run them, and where each tensor comes from.

The pydantic models below are the schema; `docs/split.schema.json` is generated from them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.cut.cut import extracted
from mxtools.errors import InputError, OutputError
from mxtools.files.atomic import check_folder
from mxtools.files.json_text import validated
from mxtools.files.regular import read_regular
from mxtools.files.writing import write_models
from mxtools.graph.index import Graph
from mxtools.scopes.scope import ROOT
from mxtools.split.parts import Part
from mxtools.split.parts_folder import DATA, FILE, PASSING, PartsFolder, check_replaced

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel

MODEL = "model"
LONGEST = 100
"""Characters of a scope that a file name shows: the last ones, which tell modules apart."""


class _ManifestRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True, frozen=True)


class Link(_ManifestRecord):
    """A tensor that a part reads or that the whole model returns, and where it comes from."""

    name: Annotated[str, Field(description="its name, the same in every part and in the whole model")]
    source: Annotated[
        str, Field(description="file of the part that computes it; 'model' if it is an input of the model")
    ]


class PartFile(_ManifestRecord):
    """One part."""

    file: Annotated[
        str, Field(pattern=rf"^({PASSING}/)?\d+-[A-Za-z0-9_.@-]+\.onnx$", description="file name, beside the manifest")
    ]
    scope: Annotated[str | None, Field(description="scope of its call, null for the rest")]
    inputs: tuple[Link, ...]
    outputs: tuple[str, ...]


class Manifest(_ManifestRecord):
    """A model in parts. Run in their order, each on the tensors that it lists, they compute the model's outputs."""

    schema_: Annotated[Literal["mxtools.split/1"], Field(alias="schema")] = "mxtools.split/1"
    inputs: Annotated[tuple[str, ...], Field(description="the model's inputs")]
    outputs: Annotated[tuple[Link, ...], Field(description="the model's outputs, in its order")]
    parts: Annotated[tuple[PartFile, ...], Field(description="each after the parts whose outputs it reads")]
    data: Annotated[
        str | None,
        Field(pattern=rf"^({PASSING}/)?weights\.data$", description="file of the weights, null if there is none"),
    ] = None


class _PassingManifest(Manifest):
    """A manifest while its files are moved to their places, where those of an earlier split still are."""

    replaced: tuple[
        Annotated[str, Field(pattern=r"^(\d+-[A-Za-z0-9_.@-]+\.onnx|manifest\.json|weights\.data)$")], ...
    ] = ()


def describe(graph: Graph, parts: Sequence[Part]) -> Manifest:
    """Return the manifest of a model's parts, which are in the order to run them."""
    files = [_file_name(number, part.scope, len(parts)) for number, part in enumerate(parts)]
    source = {v: file for part, file in zip(parts, files, strict=True) for v in part.cut.outputs}

    def links(values: Sequence[int]) -> tuple[Link, ...]:
        """Return values by name, each with the file of the part that makes it."""
        return tuple(Link(name=graph.names[v], source=source.get(v, MODEL)) for v in values)

    return Manifest(
        inputs=tuple(graph.names[v] for v in graph.inputs if v not in graph.stored),
        outputs=links(graph.outputs),
        parts=tuple(
            PartFile(
                file=file,
                scope=part.scope,
                inputs=links([v for v in part.cut.inputs if v not in graph.stored]),
                outputs=tuple(graph.names[v] for v in part.cut.outputs),
            )
            for part, file in zip(parts, files, strict=True)
        ),
    )


def write(model: WorkingModel, parts: Sequence[Part], folder: Path, verify: bool) -> Manifest:
    """Write the parts of a model and their manifest to a folder, and return the manifest.

    They replace those of an earlier split. With `verify` the parts are run first: where they compute something else
    than the model, CheckError is raised and nothing is written. Raises OutputError where the folder cannot be written,
    InputError where the type of a tensor between parts is not known.
    """
    graph = model.graph
    manifest = describe(graph, parts)
    used = Counter(v for part in parts for v in part.cut.initializers)
    shared = {graph.names[v] for v, count in used.items() if count > 1}

    def passing(place: str, old: Sequence[str]) -> str:
        """Return the manifest of the files in a folder, which replace some files."""
        files = tuple(part.model_copy(update={"file": f"{place}/{part.file}"}) for part in manifest.parts)
        data = manifest.data and f"{place}/{manifest.data}"
        fields = dict(manifest) | {"parts": files, "data": data, "replaced": tuple(old)}
        return dumps(_PassingManifest.model_construct(**fields))

    with PartsFolder(folder, lambda: files_of(folder), passing).replacing() as new:
        models = zip(
            (part.file for part in manifest.parts),
            extracted(model.proto, [p.cut for p in parts], model.weights),
            strict=True,
        )
        if write_models(models, model.weights, new, DATA, shared):
            manifest = manifest.model_copy(update={"data": DATA})
        (new / FILE).write_bytes(dumps(manifest).encode())
        if verify:
            from mxtools.split.split_check import check_split

            check_split(model, [new / part.file for part in manifest.parts])
    return manifest


def dumps(manifest: Manifest) -> str:
    """Return a manifest as JSON text."""
    return manifest.model_dump_json(by_alias=True, indent=2) + "\n"


def check(folder: Path) -> None:
    """Raise OutputError if the parts of a model cannot be written to a folder, before any work is done."""
    check_folder(folder)
    check_replaced(folder, files_of(folder))


def files_of(folder: Path) -> list[str]:
    """Return the names of the files that an earlier split wrote to a folder, the manifest first.

    Raises OutputError where the folder's `manifest.json` is none of mxtools.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        manifest = validated(_PassingManifest, read_regular(path, noted=False), str(path))
    except (OSError, ValidationError):
        raise OutputError(f"{path} is not a manifest of this version of ⟨splitter⟩", "give another folder") from None
    named = [*(part.file for part in manifest.parts), *([manifest.data] if manifest.data else [])]
    return list(dict.fromkeys([FILE, *(name.rpartition("/")[2] for name in named), *manifest.replaced]))


def read(source: Path) -> tuple[Manifest, Path]:
    """Return the manifest in a folder, or in a file, and the folder; InputError where it is none of mxtools."""
    path = source / FILE if source.is_dir() else source
    try:
        found = validated(_PassingManifest, read_regular(path), str(path))
    except ValidationError:
        raise InputError(f"{path} is not a manifest of this version of ⟨splitter⟩", "split the model again") from None
    return found, path.parent


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the manifest."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema(by_alias=True)}


def _file_name(number: int, scope: str | None, count: int) -> str:
    """Return a file name that is safe on every system; its number tells names apart that differ in case only."""
    shown = "rest" if scope is None else "root" if scope == ROOT else re.sub(r"[^A-Za-z0-9._@-]", "_", scope)
    return f"{number:0{max(2, len(str(count - 1)))}}-{shown[-LONGEST:]}.onnx"
