"""mxtools in Model Explorer: `model-explorer model.onnx --extensions=mxtools_explorer`."""
