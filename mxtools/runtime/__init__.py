"""Running things: ONNX Runtime sessions and inner values, distances of results, users' functions, noisy libraries."""
