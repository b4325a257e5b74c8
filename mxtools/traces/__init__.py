"""The trace of a PyTorch model: the sidecar, recorded values, and the inputs to feed a graph."""
