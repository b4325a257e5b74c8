"""The sidecar `*.trace.json`: what one forward pass of the PyTorch model looked like, module call by module call.

The pydantic models below are the schema; `docs/trace.schema.json` is generated from them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.errors import InputError
from mxtools.graph.fingerprints import Fingerprint
from mxtools.scopes.scope import ROOT, is_scope

SCHEMA = "mxtools.trace/1"


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings", populate_by_name=True, frozen=True)


class Tensor(_Record):
    """A tensor that went into a call or came out of it."""

    name: Annotated[
        str, Field(description="where it stands in the arguments or in the result: 'hidden_states', '0.mu'")
    ]
    id: Annotated[int, Field(ge=0, description="the same tensor object in the same state has the same id in all calls")]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: Annotated[str, Field(description="torch's name without the prefix: 'float32', 'int64', 'bool'")]
    fingerprint: Fingerprint | None = None


class Weight(_Record):
    """A parameter or buffer that a module owns itself."""

    name: Annotated[str, Field(description="attribute name within the module: 'weight'")]
    kind: Literal["parameter", "buffer"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str
    fingerprint: Fingerprint | None = None
    tied: Annotated[str | None, Field(description="full name of the first weight that is the same tensor")] = None


class Module(_Record):
    """A module of the model; the paths are those of `named_modules()`, the root's is '.'."""

    path: str
    class_name: Annotated[str, Field(alias="class")]
    qualified_class: str
    aliases: Annotated[
        tuple[str, ...], Field(description="its further names, in named_modules(remove_duplicate=False)")
    ] = ()
    weights: tuple[Weight, ...] = ()


class Call(_Record):
    """One call of a module; a call's parent stands before it."""

    scope: str
    tag: str
    module: Annotated[str, Field(description="path of the called module")]
    parent: Annotated[int | None, Field(ge=0, description="position of the calling call, null for the root")] = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Model(_Record):
    """The traced model and the example inputs that it was traced with."""

    class_name: Annotated[str, Field(alias="class")]
    qualified_class: str
    spec: str
    inputs: tuple[Tensor, ...] = ()


class Sidecar(_Record):
    """One traced forward pass."""

    schema_: Annotated[Literal["mxtools.trace/1"], Field(alias="schema")] = "mxtools.trace/1"
    producer: Annotated[dict[str, str], Field(description="versions: mxtools, torch, transformers")]
    model: Model
    modules: tuple[Module, ...]
    calls: tuple[Call, ...]
    record: Annotated[str | None, Field(description="file name, beside this one, of the recorded values")] = None


def full_name(module: Module, weight: Weight) -> str:
    """Give a weight's name in the model's state dict."""
    return weight.name if module.path == ROOT else f"{module.path}.{weight.name}"


def returned(call: Call) -> list[Tensor]:
    """Give the tensors that a call returned and was not given, each once."""
    given = {tensor.id for tensor in call.inputs}
    return list({tensor.id: tensor for tensor in call.outputs if tensor.id not in given}.values())


def makers(sidecar: Sidecar) -> dict[int, list[int]]:
    """Give the calls that returned each tensor without being given it, outermost first, by the tensor's id."""
    found: dict[int, list[int]] = {}
    for number, call in enumerate(sidecar.calls):
        for tensor in returned(call):
            found.setdefault(tensor.id, []).append(number)
    return found


def ends(sidecar: Sidecar) -> list[int]:
    """Give for each call the number of the first one after it that is not inside it."""
    found = [number + 1 for number in range(len(sidecar.calls))]
    for number in range(len(found) - 1, 0, -1):
        parent = sidecar.calls[number].parent or 0
        found[parent] = max(found[parent], found[number])
    return found


def times(sidecar: Sidecar) -> tuple[list[int], list[int], dict[int, int]]:
    """Give when each call began and ended, and when each tensor was first seen, in beginnings and ends of calls."""
    calls, open_ = sidecar.calls, list[int]()
    begun, ended = [0] * len(calls), [0] * len(calls)
    born: dict[int, int] = {}
    clock = 0
    for number in range(len(calls) + 1):
        parent = calls[number].parent if number < len(calls) else None
        while open_ and open_[-1] != parent:
            clock += 1
            ended[open_[-1]] = clock
            for tensor in calls[open_.pop()].outputs:
                born.setdefault(tensor.id, clock)
        if number < len(calls):
            clock += 1
            begun[number] = clock
            open_.append(number)
            for tensor in calls[number].inputs:
                born.setdefault(tensor.id, clock)
    return begun, ended, born


def dumps(sidecar: Sidecar) -> str:
    """Give the sidecar as JSON text, deterministic, one module or call a line so that files can be compared."""
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
    """Read a sidecar from JSON text; `where` names it in errors.

    Raises InputError when the text is no JSON, is of another schema version, or does not hold together.
    """
    try:
        sidecar = Sidecar.model_validate_json(text)
    except ValidationError as error:
        raise InputError(_explain(error, text, where)) from None
    _check(sidecar, where)
    return sidecar


def schema() -> dict[str, Any]:
    """Give the JSON Schema of the sidecar."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Sidecar.model_json_schema(by_alias=True)}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _explain(error: ValidationError, text: str | bytes, where: str) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"{where} is not JSON ({first['msg']}): give the file that `mx trace` wrote"
    try:
        found = json.loads(text)["schema"]
    except (ValueError, TypeError, KeyError):
        return f'{where} is JSON but no sidecar, it has no "schema": give the file that `mx trace` wrote'
    if found != SCHEMA:
        return f"{where} has schema {str(found)[:60]!r}, this version reads {SCHEMA!r}: run `mx trace` again"
    place = ".".join(map(str, first["loc"]))
    return f"{where} is not a valid sidecar, at {place}: {first['msg']}: run `mx trace` again"


def _check(sidecar: Sidecar, where: str) -> None:
    """Check what the schema cannot say: modules are known, parents come first, scopes are scopes and unique."""
    if not sidecar.calls:
        raise InputError(f"{where} is not a valid sidecar: it has no calls", "run `mx trace` again")
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
            raise InputError(f"{where} is not a valid sidecar: call {index} {fault}", "run `mx trace` again")
        scopes.add(call.scope)
        tags.add(call.tag)
