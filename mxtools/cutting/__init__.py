"""Cutting: which nodes a selection means, what it needs to run by itself, and the parts of a split model."""
