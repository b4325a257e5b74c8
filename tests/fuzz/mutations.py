"""Structured mutations: of protobuf messages field by field, of JSON value by value, of arrays, of bytes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import Message

from mxtools.graph.functions import model_nodes
from mxtools.scopes import keys

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    16,
    127,
    255,
    1 << 15,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)
TEXTS = (
    "",
    ".",
    "..",
    "../x",
    "/",
    "a\nb",
    "\x1b[31m",
    "<b>",
    "%2F",
    "@1",
    "a.b@2",
    "ä│",
    "\0",
    "x" * 300,
    "If",
    "Loop",
    "own",
    "ai.onnx",
    "location",
    "offset",
    "w.data",
    "/dev/zero",
)
MARK = "no-utf8-here"
BAD = b"\xff\xfe\xfa\xc0o-utf8\xe9\xe9"
DTYPES = (b"|O8", b"<U9", b"<f8", b"|V2", b"<c8")
BYTES = (b"", b"\0", b"\xff" * 3, b"a" * 64)


def mutated(message: Any, chance: Random) -> bytes:
    """Return the bytes of a model after one to three mutations; of some only in what says where nodes belong."""
    named = chance.random() < 0.3
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if named:
            _rename(message, chance)
        else:
            chance.choice(_MESSAGE_STEPS)(_inner(message, chance), chance)
    data = bytes(message.SerializeToString()).replace(MARK.encode(), BAD)
    return broken(data, chance) if chance.random() < 0.05 else data


def _inner(message: Any, chance: Random) -> Any:
    """Return a message inside of another one, however deep."""
    while True:
        inner = [
            item
            for field, content in message.ListFields()
            if field.type == field.TYPE_MESSAGE
            for item in ([content] if isinstance(content, Message) else content)
        ]
        if not inner or chance.random() < 0.15:
            return message
        message = chance.choice(inner)


def _set_field(message: Any, chance: Random) -> None:
    """Give a field, one that is there or not, another value."""
    field = chance.choice(message.DESCRIPTOR.fields)
    if field.type == field.TYPE_MESSAGE:
        (getattr(message, field.name).add if _is_list(message, field) else getattr(message, field.name).SetInParent)()
        return
    value = _value(field, chance)
    if not _is_list(message, field):
        setattr(message, field.name, value)
        return
    listed = getattr(message, field.name)
    if listed and chance.random() < 0.7:
        listed[chance.randrange(len(listed))] = value
    else:
        listed.append(value)


def _change_present(message: Any, chance: Random) -> None:
    """Give a field that is there another value."""
    present = [field for field, _ in message.ListFields() if field.type != field.TYPE_MESSAGE]
    if not present:
        return
    field = chance.choice(present)
    if not _is_list(message, field):
        setattr(message, field.name, _value(field, chance))
        return
    listed = getattr(message, field.name)
    listed[chance.randrange(len(listed))] = _value(field, chance)


def _value(field: Any, chance: Random) -> Any:
    if field.type == field.TYPE_STRING:
        return MARK if chance.random() < 0.3 else chance.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return chance.choice(BYTES)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return chance.choice((0.0, -1.0, float("inf"), float("nan")))
    if field.type == field.TYPE_ENUM:
        return chance.choice([value.number for value in field.enum_type.values])
    wide = field.type in (field.TYPE_INT64, field.TYPE_UINT64)
    low = 0 if field.type in (field.TYPE_UINT64, field.TYPE_UINT32) else -(1 << 63 if wide else 1 << 31)
    fitting = [number for number in NUMBERS if low <= number < (1 << 63 if wide else 1 << 31)]
    return chance.choice(fitting)


def _change_text(message: Any, chance: Random) -> None:
    """Change a text in its middle, and the JSON that one holds value by value."""
    texts = [field.name for field, content in message.ListFields() if isinstance(content, str) and content]
    if not texts:
        return
    name = chance.choice(texts)
    text = getattr(message, name)
    try:
        data = mutated_json(json.loads(text), chance)
    except ValueError:
        data = broken(text.encode(), chance)
    setattr(message, name, data.decode(errors="replace"))


def _rename(model: Any, chance: Random) -> None:
    """Let a node have the scope or the name of another one, or one that is made up."""
    nodes = list(model_nodes(model))
    if not nodes:
        return
    one, two = chance.choice(nodes), chance.choice(nodes)
    if chance.random() < 0.3:
        one.name = two.name if chance.random() < 0.7 else chance.choice(TEXTS)
    elif chance.random() < 0.7:
        keys.replace_props(one, keys.NODE_KEYS, {key: v for key, v in keys.props(two).items() if key in keys.NODE_KEYS})
    else:
        keys.set_prop(one, chance.choice(keys.TAG_KEYS), chance.choice((*TEXTS, "a", "a.b", "layers.0", "layers.0.x")))


def _remove(message: Any, chance: Random) -> None:
    present = message.ListFields()
    if present:
        field, content = chance.choice(present)
        if isinstance(content, Message | str | bytes | int | float) or chance.random() < 0.2:
            message.ClearField(field.name)
        else:
            del content[chance.randrange(len(content))]


def _repeat(message: Any, chance: Random) -> None:
    """Write an entry of a list once more, or move it to the end."""
    lists = [(field, c) for field, c in message.ListFields() if _is_list(message, field)]
    if not lists:
        return
    _, content = chance.choice(lists)
    place = chance.randrange(len(content))
    content.append(content[place])
    if chance.random() < 0.5:
        del content[place]


def _is_list(message: Any, field: Any) -> bool:
    return not isinstance(getattr(message, field.name), Message | str | bytes | int | float)


_MESSAGE_STEPS: tuple[Callable[[Any, Random], None], ...] = (
    _set_field,
    _change_present,
    _change_present,
    _change_text,
    _remove,
    _repeat,
)


def mutated_json(data: Any, chance: Random) -> bytes:
    """Return JSON text after one to three mutations."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        holder = data
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = chance.choice(keys)
            if not isinstance(holder[key], dict | list) or not holder[key] or chance.random() < 0.2:
                _change_entry(holder, key, chance)
                break
            holder = holder[key]
    text = json.dumps(data, ensure_ascii=False).encode(errors="surrogatepass")
    return broken(text, chance) if chance.random() < 0.1 else text


def _change_entry(holder: Any, key: Any, chance: Random) -> None:
    step = chance.random()
    if step < 0.2:
        del holder[key]
    elif step < 0.3 and isinstance(holder, list):
        holder.append(holder[key])
    elif step < 0.4 and isinstance(holder, dict):
        holder[chance.choice(TEXTS)] = holder.pop(key)
    else:
        holder[key] = chance.choice((None, True, [], {}, [[]], 1.5, float("nan"), "\ud800", *NUMBERS, *TEXTS))


def mutated_file(name: str, content: bytes, chance: Random) -> bytes:
    """Return what a file of a kind, told by its name, holds after some mutations."""
    if name.endswith(".json"):
        return mutated_json(json.loads(content), chance)
    if name.endswith(".safetensors") and chance.random() < 0.7:
        size = int.from_bytes(content[:8], "little")
        header = mutated_json(json.loads(content[8 : 8 + size]), chance)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    if name.endswith(".npz") and chance.random() < 0.7:
        return _mutated_npz(content, chance)
    return broken(content, chance)


def _mutated_npz(content: bytes, chance: Random) -> bytes:
    """Change a member of an archive of arrays, its head above all, and write the archive anew."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as written:
        for name in given.namelist():
            data = given.read(name)
            for old, new in (
                (b"<f4", chance.choice((b"|O8", b"<U9", b"<f8", b"|V2"))),
                (b"(2, 4)", b"(9999999999, 4)"),
            ):
                data = data.replace(old, new) if chance.random() < 0.3 else data
            written.writestr(name, broken(data, chance) if chance.random() < 0.5 else data)
    return made.getvalue()


def broken(data: bytes, chance: Random) -> bytes:
    """Return bytes with some changed, missing or twice."""
    place = chance.randrange(len(data) + 1)
    step = chance.randrange(4)
    if step == 0:
        return data[:place]
    if step == 1:
        return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
    if step == 2:
        return data[:place] + data[place + chance.randrange(9) :]
    return data[:place] + data[max(0, place - chance.randrange(40)) :]
