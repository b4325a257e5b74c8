"""Rules for what mxtools wrote on nodes and model: it is complete, well formed, and agrees with itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, MutableSequence

from onnx import ModelProto, NodeProto, StringStringEntryProto

from mxtools.carriers.doc_strings import read_doc_string, write_doc_string
from mxtools.carriers.packed import embedded_trace, scopes_of
from mxtools.errors import InputError
from mxtools.files import VERSION
from mxtools.files.json_text import decoded_or_none
from mxtools.scopes import keys
from mxtools.scopes.annotations import FOLDED, MERGED_INTO, UNUSED, VACUOUS, Evidence
from mxtools.scopes.scope import is_scope
from mxtools.validate.rules import CheckedModel, Fault, Severity, prefixes, rule

_WORDS = frozenset(map(str, Evidence))
_REASONS = frozenset({VACUOUS, UNUSED, FOLDED})
_OURS = "pkg.mxtools."
_NODE_KEYS = keys.NODE_KEYS | {keys.FOLDED}
AGAIN = "⟨tag⟩ again"


@rule("duplicate-key", Severity.ERROR, "keep one of them")
def _duplicate_key(checked: CheckedModel) -> Iterator[Fault]:
    """No key occurs twice in the metadata of a node or of the model."""
    owners: list[tuple[int | None, NodeProto | ModelProto]] = [*enumerate(checked.graph.nodes), (None, checked.proto)]
    for (number, proto), props in zip(owners, [*checked.entries, keys.props(checked.proto)], strict=True):
        if len(proto.metadata_props) > len(props):
            for key, count in Counter(entry.key for entry in proto.metadata_props).items():
                if count > 1:
                    where = "" if number is not None else " in the model's metadata"
                    yield Fault(f"{key} occurs {count} times{where}", number, mend=_keep_last(proto, key))


@rule("unknown-key", Severity.WARNING, "remove it")
def _unknown_key(checked: CheckedModel) -> Iterator[Fault]:
    """All keys `pkg.mxtools.*` are keys that mxtools writes."""
    for number, props in enumerate(checked.entries):
        for key in props:
            if key not in _NODE_KEYS and key.startswith(_OURS):
                yield Fault(f"{key} is not a key of mxtools", number, mend=_remove(checked.graph.nodes[number], key))
    for key in keys.props(checked.proto):
        if key.startswith(_OURS) and key not in keys.MODEL_KEYS | keys.CARRIER_KEYS:
            yield Fault(f"{key} is not a key of mxtools for models", mend=_remove(checked.proto, key))


@rule("damaged-copy", Severity.ERROR, "⟨tag-with-trace⟩ again")
def _damaged_copy(checked: CheckedModel) -> Iterator[Fault]:
    """The trace and the list of scopes in the model's metadata are readable."""
    for key, read in ((keys.TRACE, embedded_trace), (keys.SCOPES, scopes_of)):
        try:
            read(checked.proto)
        except InputError as error:
            yield Fault(f"{key}: {error.problem}", mend=_remove(checked.proto, key))


@rule("stale-copy", Severity.ERROR, AGAIN)
def _stale_copy(checked: CheckedModel) -> Iterator[Fault]:
    """The copy of a scope in a doc string equals the scope in the metadata."""
    for number, props in enumerate(checked.entries):
        proto = checked.graph.nodes[number]
        copied = read_doc_string(proto.doc_string).get(keys.SCOPE)
        if copied and keys.SCOPE in props and copied != props[keys.SCOPE]:
            yield Fault(f"its doc string has the scope {copied}", number, mend=_copy(proto))


@rule("untagged", Severity.ERROR, "⟨tag⟩")
def _untagged(checked: CheckedModel) -> Iterator[Fault]:
    """Every node has a scope, also nodes in bodies and functions."""
    if not checked.tagged:
        if checked.graph.nodes:
            yield Fault("no node has a scope")
        return
    for number, props in enumerate(checked.entries):
        if keys.SCOPE not in props:
            yield Fault("it has no scope", number, mend=checked.mend_untagged(number))


@rule("malformed-scope", Severity.ERROR, AGAIN)
def _malformed_scope(checked: CheckedModel) -> Iterator[Fault]:
    """Scopes are well formed: attribute names joined by dots, each with an optional `@k`, or '.' for the root."""
    for number, props in enumerate(checked.entries):
        if keys.SCOPE in props and not is_scope(props[keys.SCOPE]):
            yield Fault(f"{props[keys.SCOPE]!r} is not a scope", number, mend=_untag(checked, number))


@rule("incomplete", Severity.ERROR, AGAIN, unless=("other-model",))
def _incomplete(checked: CheckedModel) -> Iterator[Fault]:
    """A node with a scope also has a tag and evidence."""
    for number, scope in checked.scopes.items():
        for key in (keys.TAG, keys.EVIDENCE):
            if key not in checked.entries[number]:
                tag = checked.tags[scope]
                value = tag if key == keys.TAG else str(Evidence.PREVIOUS)
                yield Fault(f"it has a scope but no {key}", number, mend=_set(checked, number, key, value))


@rule("unknown-evidence", Severity.ERROR, AGAIN)
def _unknown_evidence(checked: CheckedModel) -> Iterator[Fault]:
    """Evidence is one of the known words."""
    for number, props in enumerate(checked.entries):
        word = props.get(keys.EVIDENCE)
        if word is not None and word not in _WORDS:
            mend = _set(checked, number, keys.EVIDENCE, str(Evidence.PREVIOUS))
            yield Fault(f"{word!r} is not a kind of evidence", number, mend=mend)


@rule("tag-differs", Severity.ERROR, AGAIN, unless=("other-model",))
def _tag_differs(checked: CheckedModel) -> Iterator[Fault]:
    """Tag and scope agree, and no two scopes share a tag."""
    owner: dict[str, str] = {}
    for scope, tag in checked.tags.items():
        owner.setdefault(tag, scope)
    for number, scope in checked.scopes.items():
        tag, wanted = checked.entries[number].get(keys.TAG, ""), checked.tags[scope]
        if tag and tag != wanted:
            yield Fault(
                f"its tag is {tag!r}, but the tag of its scope is {wanted!r}",
                number,
                mend=_set(checked, number, keys.TAG, wanted),
            )
        elif tag and owner[tag] != scope:
            yield Fault(f"its tag is {tag!r}, which is also the tag of {owner[tag]}", number)


@rule("invalid-merged", Severity.ERROR, AGAIN)
def _invalid_merged(checked: CheckedModel) -> Iterator[Fault]:
    """The scopes of a merged node are a JSON list of several scopes."""
    for number, props in enumerate(checked.entries):
        if keys.MERGED in props:
            reason = _wrong_list(props[keys.MERGED])
            if reason:
                yield Fault(reason, number, mend=_remove(checked.graph.nodes[number], keys.MERGED))


@rule("version", Severity.WARNING, AGAIN)
def _version(checked: CheckedModel) -> Iterator[Fault]:
    """A tagged model says which version of mxtools tagged it."""

    def mend() -> str:
        """Write the version."""
        keys.set_prop(checked.proto, keys.VERSION, VERSION)
        return f"wrote {VERSION}"

    if checked.tagged and not keys.props(checked.proto).get(keys.VERSION):
        yield Fault(f"nodes have scopes, but the model has no {keys.VERSION}", mend=mend)


@rule("invalid-absent", Severity.ERROR, AGAIN)
def _invalid_absent(checked: CheckedModel) -> Iterator[Fault]:
    """The absent scopes are a JSON object of scopes, each with a known reason."""
    text = keys.props(checked.proto).get(keys.ABSENT)
    if text is None:
        return
    found = decoded_or_none(text)
    if not isinstance(found, dict):
        yield Fault(f"{keys.ABSENT} is not a JSON object", mend=_remove(checked.proto, keys.ABSENT))
        return
    for scope, reason in found.items():
        if not is_scope(scope):
            yield Fault(f"{keys.ABSENT} lists {scope!r}, which is not a scope", mend=drop_absent(checked, scope))
        elif not _is_reason(reason):
            yield Fault(f"{keys.ABSENT} gives the unknown reason {reason!r}", None, scope, drop_absent(checked, scope))


@rule("absent-borne", Severity.ERROR, AGAIN)
def _absent_borne(checked: CheckedModel) -> Iterator[Fault]:
    """No node has a scope that the model lists as absent."""
    absent = checked.model.absent
    for number, scope in checked.scopes.items():
        listed = [around for around in prefixes(scope) if around in absent]
        if listed:
            reason = f"it has a scope, but {keys.ABSENT} lists {listed[0]}"
            yield Fault(reason, number, scope, drop_absent(checked, listed[0]))


def drop_absent(checked: CheckedModel, scope: str) -> Callable[[], str]:
    """Return a function that removes a scope from the list of scopes without nodes."""

    def mend() -> str:
        """Remove the scope from the list."""
        found = decoded_or_none(keys.props(checked.proto).get(keys.ABSENT, ""))
        if isinstance(found, dict):
            found.pop(scope, None)
            keys.set_prop(checked.proto, keys.ABSENT, json.dumps(found, ensure_ascii=False) if found else None)
        return f"removed {scope} from the list"

    return mend


def _wrong_list(text: str) -> str:
    """Return why a text is not a list of merged scopes; '' if it is one."""
    found = decoded_or_none(text)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return f"{text[:80]!r} is not a JSON list of scopes"
    wrong = next((item for item in found if not is_scope(item)), None)
    if wrong is not None:
        return f"it is merged with {wrong!r}, which is not a scope"
    return "" if len(set(found)) > 1 else "it is a merged node, but only one scope is listed"


def _is_reason(reason: object) -> bool:
    text = str(reason)
    return text in _REASONS or (text.startswith(MERGED_INTO) and is_scope(text.removeprefix(MERGED_INTO)))


def _keep_last(proto: NodeProto | ModelProto, key: str) -> Callable[[], str]:
    def mend() -> str:
        """Remove all entries of the key but the last."""
        entries: MutableSequence[StringStringEntryProto] = proto.metadata_props
        places = [place for place, entry in enumerate(entries) if entry.key == key]
        for place in reversed(places[:-1]):
            del entries[place]
        return f"kept the last {key}"

    return mend


def _remove(proto: NodeProto | ModelProto, key: str) -> Callable[[], str]:
    def mend() -> str:
        """Remove the key."""
        keys.set_prop(proto, key, None)
        return f"removed {key}"

    return mend


def _copy(proto: NodeProto) -> Callable[[], str]:
    def mend() -> str:
        """Write the doc string again."""
        write_doc_string(proto)
        return "wrote the doc string again"

    return mend


def _set(checked: CheckedModel, number: int, key: str, value: str) -> Callable[[], str]:
    def mend() -> str:
        """Set the key."""
        keys.set_prop(checked.graph.nodes[number], key, value)
        return f"set {key} to {value}"

    return mend


def _untag(checked: CheckedModel, number: int) -> Callable[[], str]:
    def mend() -> str:
        """Remove the tags of the node, and tag it by its neighbours."""
        keys.replace_props(checked.graph.nodes[number], keys.NODE_KEYS, {})
        return checked.mend_untagged(number)()

    return mend
