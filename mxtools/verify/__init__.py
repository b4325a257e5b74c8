"""Comparing what modules in a graph return with what PyTorch's modules returned."""
