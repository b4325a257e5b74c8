"""All that needs PyTorch: loading models, making inputs, tracing, exporting. Nothing else in mxtools imports torch."""
