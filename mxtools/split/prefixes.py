"""Put all scopes of a model under a name, as one module of a larger model."""

from __future__ import annotations

import json

from onnx import FunctionProto, ModelProto, NodeProto

from mxtools.files.json_text import list_of_texts, texts_by_name
from mxtools.graph.functions import model_nodes
from mxtools.scopes import keys
from mxtools.scopes.annotations import MERGED_INTO
from mxtools.scopes.scope import ROOT, escape, join
from mxtools.scopes.tags import class_of

ROOT_TAG = "/Model"
"""The tag of the root of a joined model."""


class Prefix:
    """An alias of a model: `encoder`, under which `block.0` becomes `encoder.block.0`, and its root `encoder`."""

    def __init__(self, alias: str, model: ModelProto) -> None:
        """Take the alias; the class of the model is that of its root."""
        self._alias = escape(alias)
        tags = (keys.props(node).get(keys.TAG, "") for node in model_nodes(model))
        root = next((class_of("/" + tag.split("/")[1]) for tag in tags if tag.startswith("/")), "Model")
        self._root = f"{ROOT_TAG}/{root}.{self._alias.rpartition('.')[2]}"

    def apply(self, model: ModelProto, joined: ModelProto) -> None:
        """Change the scopes and tags of a model's nodes; what the model says of scopes goes to the joined model.

        What calls of functions remember of names and tags holds only under the old scopes, so it is forgotten.
        """
        for node in model_nodes(model):
            if keys.FOLDED in keys.props(node):
                keys.set_prop(node, keys.FOLDED, None)
            self._change(node)
        for function in model.functions:
            self._change(function)
        scope, tag = self._scope, self._tag
        lists = {keys.ABSENT: self._reason, keys.EQUAL: scope, keys.CALLERS: scope, keys.CALLS: tag}
        lists[keys.INCOMPLETE] = str  # numbers, not scopes
        for key, changed in lists.items():
            known, own = (texts_by_name(keys.props(proto).get(key, "{}")) for proto in (joined, model))
            added = {self._scope(scope): changed(text) for scope, text in own.items()}
            if added:
                keys.set_prop(joined, key, json.dumps(known | added, ensure_ascii=False))

    def _change(self, holder: NodeProto | FunctionProto) -> None:
        changes = {keys.SCOPE: self._scope, keys.TAG: self._tag, keys.MERGED: self._list, keys.EQUAL: self._list}
        for entry in holder.metadata_props:
            if entry.key in changes:
                entry.value = changes[entry.key](entry.value)

    def _scope(self, scope: str) -> str:
        return self._alias if scope == ROOT else join(self._alias, scope)

    def _tag(self, tag: str) -> str:
        return "/".join([self._root, *tag.split("/")[2:]]) if tag else ""

    def _list(self, text: str) -> str:
        return json.dumps([self._scope(scope) for scope in list_of_texts(text)])

    def _reason(self, text: str) -> str:
        """Return why a scope is absent, with the scope in it changed."""
        if text.startswith(MERGED_INTO):
            return MERGED_INTO + self._scope(text.removeprefix(MERGED_INTO))
        return text
