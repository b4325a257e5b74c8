"""Everything that needs PyTorch: load models, make inputs, trace, export. Nothing else in mxtools imports torch."""
