"""The sidecar `*.trace.json`: one forward pass of the PyTorch model, module call by module call.

The pydantic models below are the schema; `docs/trace.schema.json` is generated from them. Tensors have ids, so that the
way of a value can be followed: what one call returned (in its outputs) is what another was given (in its inputs).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.errors import InputError
from mxtools.graph.fingerprints import Fingerprint
from mxtools.scopes.scope import ROOT, is_scope

SCHEMA = "mxtools.trace/1"

_AGAIN = "run ⟨tracer⟩ again"


class _TraceRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings", populate_by_name=True, frozen=True)


class TracedTensor(_TraceRecord):
    """A tensor that went into a call or came out of it."""

    name: Annotated[
        str, Field(description="where it stands in the arguments or in the result: 'hidden_states', '0.mu'")
    ]
    id: Annotated[int, Field(ge=0, description="the same tensor object in the same state has the same id in all calls")]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: Annotated[str, Field(description="torch's name without the prefix: 'float32', 'int64', 'bool'")]
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
        tuple[str, ...], Field(description="its further names, in named_modules(remove_duplicate=False)")
    ] = ()
    weights: tuple[Weight, ...] = ()


class Call(_TraceRecord):
    """One call of a module; a call's parent stands before it."""

    scope: str
    tag: str
    module: Annotated[str, Field(description="path of the called module")]
    parent: Annotated[int | None, Field(ge=0, description="position of the calling call, null for the root")] = None
    inputs: tuple[TracedTensor, ...] = ()
    outputs: tuple[TracedTensor, ...] = ()
    reorders: Annotated[
        Literal[True] | None,
        Field(
            description="it returned nothing but its inputs, and of one the elements in another order, "
            "which fingerprints do not show; not there where that is not so"
        ),
    ] = None


class TracedModel(_TraceRecord):
    """The traced model and the example inputs that it was traced with."""

    class_name: Annotated[str, Field(alias="class")]
    qualified_class: str
    spec: str
    inputs: tuple[TracedTensor, ...] = ()


class Sidecar(_TraceRecord):
    """One traced forward pass."""

    schema_: Annotated[Literal["mxtools.trace/1"], Field(alias="schema")] = "mxtools.trace/1"
    producer: Annotated[dict[str, str], Field(description="versions: mxtools, torch, transformers")]
    model: TracedModel
    modules: tuple[TracedModule, ...]
    calls: tuple[Call, ...]
    record: Annotated[str | None, Field(description="file name, beside this one, of the recorded values")] = None


def full_name(module: TracedModule, weight: Weight) -> str:
    """Return a weight's name in the model's state dict: `encoder.layer.0.output.dense.weight`."""
    return weight.name if module.path == ROOT else f"{module.path}.{weight.name}"


def returned_tensors(call: Call) -> list[TracedTensor]:
    """Return the tensors that a call returned, each once, without those that it was given and passed on."""
    given = {tensor.id for tensor in call.inputs}
    return list({tensor.id: tensor for tensor in call.outputs if tensor.id not in given}.values())


def calls_returning(sidecar: Sidecar) -> dict[int, list[int]]:
    """Return for each tensor, by its id, the calls that returned it without being given it, the outermost first.

    The last of them is the module that computed it; those before only pass on what a module inside returned.
    """
    calls: dict[int, list[int]] = {}
    for number, call in enumerate(sidecar.calls):
        for tensor in returned_tensors(call):
            calls.setdefault(tensor.id, []).append(number)
    return calls


def callers(calls: Sequence[Call], number: int) -> Iterator[int]:
    """Yield the call that made a call, the one that made that, and so on up to the root; nothing for the root."""
    parent = calls[number].parent
    while parent is not None:
        yield parent
        parent = calls[parent].parent


def call_ends(sidecar: Sidecar) -> list[int]:
    """Return for each call the number of the first one after it that is not inside it.

    Calls are listed as they began, so the calls inside call `c` are `c + 1` to `call_ends(sidecar)[c] - 1`.
    """
    ends = [number + 1 for number in range(len(sidecar.calls))]
    for number in range(len(ends) - 1, 0, -1):
        parent = sidecar.calls[number].parent or 0
        ends[parent] = max(ends[parent], ends[number])
    return ends


def call_times(sidecar: Sidecar) -> tuple[list[int], list[int], dict[int, int]]:
    """Return when each call began, when each ended, and by id when each tensor was first seen.

    The clock ticks once for each beginning and once for each end of a call. For a root that calls `a` and then `b`:

        root begins 1, a begins 2, a ends 3, b begins 4, b ends 5, root ends 6

    A tensor is first seen when a call that is given it begins, or when one that returns it ends. So a result of `a`
    has the time 3, and what the root computed between the two calls and gave to `b` has the time 4.
    """
    calls, running = sidecar.calls, list[int]()
    begun, ended = [0] * len(calls), [0] * len(calls)
    first_seen: dict[int, int] = {}
    clock = 0
    for number in range(len(calls) + 1):
        parent = calls[number].parent if number < len(calls) else None
        while running and running[-1] != parent:
            clock += 1
            ended[running[-1]] = clock
            for tensor in calls[running.pop()].outputs:
                first_seen.setdefault(tensor.id, clock)
        if number < len(calls):
            clock += 1
            begun[number] = clock
            running.append(number)
            for tensor in calls[number].inputs:
                first_seen.setdefault(tensor.id, clock)
    return begun, ended, first_seen


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

    Raises InputError if the text is no JSON, has another schema version, or contradicts itself.
    """
    try:
        sidecar = Sidecar.model_validate_json(text)
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
    """Return the error for a text that pydantic refused, with what a user can understand of it."""
    first = error.errors()[0]
    other_file = "give the file that ⟨tracer⟩ wrote"
    if first["type"] == "json_invalid":
        return InputError(f"{where} is not JSON ({first['msg']})", other_file)
    try:
        version = json.loads(text)["schema"]
    except (ValueError, TypeError, KeyError):
        return InputError(f'{where} is JSON but no sidecar, it has no "schema"', other_file)
    if version != SCHEMA:
        return InputError(f"{where} has schema {str(version)[:60]!r}, this version reads {SCHEMA!r}", _AGAIN)
    place = ".".join(map(str, first["loc"]))
    return InputError(f"{where} is not a valid sidecar, at {place}: {first['msg']}", _AGAIN)


def _check(sidecar: Sidecar, where: str) -> None:
    """Check what the schema cannot say: modules are listed, parents come first, scopes are scopes and unique."""
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
            fault = f"has scope {call.scope!r} and tag {call.tag!r}, which are none"
        elif call.scope in scopes or call.tag in tags:
            fault = f"repeats scope {call.scope!r} or tag {call.tag!r}"
        if fault:
            raise InputError(f"{where} is not a valid sidecar: call {index} {fault}", _AGAIN)
        scopes.add(call.scope)
        tags.add(call.tag)
