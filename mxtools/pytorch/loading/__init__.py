"""Load models, and find or make the inputs of their forward pass."""
