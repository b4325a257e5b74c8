"""Modules as model-local functions: folding them into functions, and unfolding functions into the graph again."""
