"""The manifest of a split model, `manifest.json`: its parts in order, and where each tensor comes from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mxtools.cut.cut import extracted
from mxtools.errors import InputError, OutputError
from mxtools.files.atomic import check_folder
from mxtools.files.json_text import validated
from mxtools.files.regular import read_regular
from mxtools.files.writing import write_models
from mxtools.graph.index import Graph
from mxtools.scopes.scope import ROOT
from mxtools.split.genai import FILE as GENAI
from mxtools.split.genai import configuration
from mxtools.split.parts import Part
from mxtools.split.parts_folder import DATA, FILE, PartsFolder, check_replaced
from mxtools.split.records import MODEL, Link, Manifest, PartFile, PassingManifest
from mxtools.split.running import check_split

if TYPE_CHECKING:
    from mxtools.pipeline.working_model import WorkingModel

LONGEST = 100
"""Characters of a scope that a file name shows: the last ones, which tell modules apart."""


def describe(graph: Graph, parts: Sequence[Part], name: str = "rest") -> Manifest:
    """Return the manifest of a model's parts, which are in the order to run them.

    `name` is what files are called of parts that belong to no single call and no place.
    """
    names = [part.place or (name if part.scope is None else part.scope) for part in parts]
    files = [_file_name(number, name, len(parts)) for number, name in enumerate(names)]
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
                place=part.place,
            )
            for part, file in zip(parts, files, strict=True)
        ),
    )


def write(
    model: WorkingModel,
    parts: Sequence[Part],
    folder: Path,
    verify: bool,
    manifest: Manifest | None = None,
    config: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the parts of a model and their manifest to a folder, and return the manifest.

    They replace those of an earlier split. `manifest` is what `describe` returned of them, if more is known. With the
    `config` of a decoder, they get the configuration of onnxruntime-genai too. With `verify` the parts are run first:
    where they compute something else than the model, CheckError is raised and nothing is written. Raises OutputError
    where the folder cannot be written, InputError where the type of a tensor between parts is not known, UsageError
    where onnxruntime-genai could not run the parts.
    """
    graph = model.graph
    whole = manifest or describe(graph, parts)
    text = None if config is None else configuration(model.proto, whole, config)
    whole = whole if text is None else whole.model_copy(update={"genai": GENAI})
    used = Counter(v for part in parts for v in part.cut.initializers)
    shared = {graph.names[v] for v, count in used.items() if count > 1}

    def passing(place: str, old: Sequence[str]) -> str:
        """Return the manifest of the files in a folder, which replace some files."""
        files = tuple(part.model_copy(update={"file": f"{place}/{part.file}"}) for part in whole.parts)
        others = {name: value and f"{place}/{value}" for name, value in (("data", whole.data), ("genai", whole.genai))}
        fields = dict(whole) | others | {"parts": files, "replaced": tuple(old)}
        return dumps(PassingManifest.model_construct(**fields))

    with PartsFolder(folder, lambda: files_of(folder), passing).replacing() as new:
        models = zip(
            (part.file for part in whole.parts),
            extracted(model.proto, [p.cut for p in parts], model.weights),
            strict=True,
        )
        if write_models(models, model.weights, new, DATA, shared):
            whole = whole.model_copy(update={"data": DATA})
        if text is not None:
            (new / GENAI).write_text(text)
        (new / FILE).write_bytes(dumps(whole).encode())
        if verify:
            check_split(model, whole, new)
    return whole


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
        manifest = validated(PassingManifest, read_regular(path, noted=False), str(path))
    except (OSError, ValidationError):
        raise OutputError(f"{path} is not a manifest of this version of ⟨splitter⟩", "give another folder") from None
    named = [*(part.file for part in manifest.parts), *filter(None, (manifest.data, manifest.genai))]
    return list(dict.fromkeys([FILE, *(name.rpartition("/")[2] for name in named), *manifest.replaced]))


def read(source: Path) -> tuple[Manifest, Path]:
    """Return the manifest in a folder, or in a file, and the folder; InputError where it is none of mxtools."""
    path = source / FILE if source.is_dir() else source
    if not path.exists():
        problem = f"{source} has no {FILE}" if source.is_dir() else f"there is no file {source}"
        raise InputError(problem, "give the folder that ⟨splitter⟩ wrote")
    try:
        found = validated(PassingManifest, read_regular(path), str(path))
    except ValidationError:
        raise InputError(f"{path} is not a manifest of this version of ⟨splitter⟩", "split the model again") from None
    return found, path.parent


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the manifest."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema(by_alias=True)}


def _file_name(number: int, name: str, count: int) -> str:
    """Return a file name that is safe on every system; its number tells names apart that differ in case only."""
    shown = "root" if name == ROOT else re.sub(r"[^A-Za-z0-9._@-]", "_", name)
    return f"{number:0{max(2, len(str(count - 1)))}}-{shown[-LONGEST:]}.onnx"
