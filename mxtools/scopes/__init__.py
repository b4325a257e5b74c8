"""Scopes and tags: how they are written, the call tree, the annotations of nodes, and selectors."""
