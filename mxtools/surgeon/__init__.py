"""Editing a graph with a user's function on onnx-graphsurgeon, without losing what graphsurgeon drops."""
