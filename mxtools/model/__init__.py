"""ONNX models as files and graphs: reading and writing without weights, the index, shapes, names, operator sets."""
