"""Try, measure and recommend strategies for PyTorch models."""
