"""Cutting modules out of a graph, as models that run."""
