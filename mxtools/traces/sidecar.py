"""The sidecar `*.trace.json`: one forward pass of the PyTorch model, module call by module call.

The pydantic models below are the schema; `docs/trace.schema.json` is generated from them. Tensors have ids, which show
the way of a value: what one call returned (in its outputs) is what another was given (in its inputs).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.errors import InputError
from mxtools.files.json_text import decoded, validated
from mxtools.graph.fingerprints import Fingerprint
from mxtools.scopes.scope import ROOT, enclosing_scopes, is_scope

SCHEMA = "mxtools.trace/1"

_AGAIN = "run ⟨tracer⟩ again"


class _TraceRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings", populate_by_name=True, frozen=True)


class TracedTensor(_TraceRecord):
    """A tensor that went into a call or came out of it."""

    name: Annotated[str, Field(description="its place in the arguments or in the result: 'hidden_states', '0.mu'")]
    id: Annotated[int, Field(ge=0, description="the same tensor object in the same state has the same id in all calls")]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: Annotated[str, Field(description="torch's name without 'torch.': 'float32', 'int64', 'bool'")]
    fingerprint: Fingerprint | None = None


class Weight(_TraceRecord):
    """A parameter or buffer that a module owns itself."""

    name: Annotated[str, Field(description="attribute name within the module: 'weight'")]
    kind: Literal["parameter", "buffer"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str
    fingerprint: Fingerprint | None = None
    tied: Annotated[str | None, Field(description="full name of the first weight that is the same tensor")] = None


class TracedModule(_TraceRecord):
    """A module of the model; the paths are those of `named_modules()`, the root's is '.'."""

    path: str
    class_name: Annotated[str, Field(alias="class")]
    qualified_class: str
    aliases: Annotated[
        tuple[str, ...], Field(description="its other names in named_modules(remove_duplicate=False)")
    ] = ()
    weights: tuple[Weight, ...] = ()
    opaque: Annotated[
        Literal[True] | None,
        Field(description="true for a ScriptModule: its calls cannot be recorded, and its work counts for its caller"),
    ] = None


class Call(_TraceRecord):
    """One call of a module; a call's parent stands before it."""

    scope: str
    tag: str
    module: Annotated[str, Field(description="path of the module that is called")]
    parent: Annotated[
        int | None, Field(ge=0, description="position of the call that makes this one, null for the root")
    ] = None
    inputs: tuple[TracedTensor, ...] = ()
    outputs: tuple[TracedTensor, ...] = ()
    reorders: Annotated[
        Literal[True] | None,
        Field(
            description="true if it only returned its inputs, at least one of them with its elements in another order, "
            "which fingerprints do not show"
        ),
    ] = None
    leaves: Annotated[
        tuple[TracedTensor, ...],
        Field(
            description="tensors that an operation inside the call made and one outside it used, although the call did "
            "not return them, such as values in a cache or an attribute"
        ),
    ] = ()


class Operation(NamedTuple):
    """A function of torch that made or changed tensors, as [call, name, ids of its inputs, ids of its outputs]."""

    call: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class TracedModel(_TraceRecord):
    """The traced model and the example inputs that it was traced with."""

    class_name: Annotated[str, Field(alias="class")]
    qualified_class: str
    spec: str
    inputs: tuple[TracedTensor, ...] = ()
    part: Annotated[
        str | None,
        Field(description="the module to which the calls below the root belong, if the others were left out"),
    ] = None


class Sidecar(_TraceRecord):
    """One traced forward pass."""

    schema_: Annotated[Literal["mxtools.trace/1"], Field(alias="schema")] = "mxtools.trace/1"
    producer: Annotated[dict[str, str], Field(description="versions: mxtools, torch, transformers")]
    model: TracedModel
    modules: tuple[TracedModule, ...]
    calls: tuple[Call, ...]
    operations: Annotated[
        tuple[Operation, ...], Field(description="in the order of execution, each with the innermost call that ran it")
    ] = ()
    record: Annotated[str | None, Field(description="file name, beside this one, of the recorded values")] = None


def opaque_modules(sidecar: Sidecar) -> list[str]:
    """Return the paths of the modules whose inner calls cannot be recorded, without those inside of others."""
    paths = {module.path for module in sidecar.modules if module.opaque}
    return sorted(p for p in paths if p == ROOT or not {ROOT, *enclosing_scopes(p)} & paths)


def dumps(sidecar: Sidecar) -> str:
    """Return the sidecar as JSON text, deterministic, with a line for each module and call, so that `diff` works."""
    data = sidecar.model_dump(mode="json", by_alias=True, exclude_none=True)
    lines = []
    for key, value in data.items():
        if isinstance(value, list):
            items = ",\n".join("  " + _compact(item) for item in value)
            lines.append(f"{json.dumps(key)}: [\n{items}\n]" if value else f"{json.dumps(key)}: []")
        else:
            lines.append(f"{json.dumps(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def loads(text: str | bytes, where: str) -> Sidecar:
    """Return the sidecar in JSON text; `where` names it in errors.

    Raises InputError if the text is not JSON, has another schema version, or contradicts itself.
    """
    try:
        sidecar = validated(Sidecar, text, where)
    except ValidationError as error:
        raise _not_a_sidecar(error, text, where) from None
    _check(sidecar, where)
    return sidecar


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the sidecar."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Sidecar.model_json_schema(by_alias=True)}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _not_a_sidecar(error: ValidationError, text: str | bytes, where: str) -> InputError:
    """Return the error for a text that pydantic refused, with the part of its message that helps a user."""
    first = error.errors()[0]
    other_file = "give the file that ⟨tracer⟩ wrote"
    if first["type"] == "json_invalid":
        return InputError(f"{where} is not JSON ({first['msg']})", other_file)
    try:
        version = decoded(text)["schema"]
    except (ValueError, TypeError, KeyError):
        return InputError(f'{where} is JSON but not a sidecar: it has no "schema"', other_file)
    if version != SCHEMA:
        return InputError(
            f"{where} has schema {str(version)[:60]!r}, but this version of mxtools reads {SCHEMA!r}", _AGAIN
        )
    place = ".".join(map(str, first["loc"]))
    return InputError(f"{where} is not a valid sidecar, at {place}: {first['msg']}", _AGAIN)


def _check(sidecar: Sidecar, where: str) -> None:
    """Check what the schema cannot express: modules are listed, parents come first, scopes are valid and unique."""
    if not sidecar.calls:
        raise InputError(f"{where} is not a valid sidecar: it has no calls", _AGAIN)
    paths = {module.path for module in sidecar.modules}
    scopes: set[str] = set()
    tags: set[str] = set()
    for index, call in enumerate(sidecar.calls):
        fault = None
        if call.module not in paths:
            fault = f"calls module {call.module!r}, which is not listed"
        elif (call.parent is None) != (index == 0) or (call.parent is not None and call.parent >= index):
            fault = "has a parent that does not come before it"
        elif not is_scope(call.scope) or (call.scope == ROOT) != (index == 0) or not call.tag.startswith("/"):
            fault = f"has scope {call.scope!r} and tag {call.tag!r}, which are not well formed"
        elif call.scope in scopes or call.tag in tags:
            fault = f"repeats scope {call.scope!r} or tag {call.tag!r}"
        if fault:
            raise InputError(f"{where} is not a valid sidecar: call {index} {fault}", _AGAIN)
        scopes.add(call.scope)
        tags.add(call.tag)
