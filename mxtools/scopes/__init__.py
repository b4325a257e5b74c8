"""Scopes and tags: how they are written, the call tree, what nodes bear, and selectors."""
