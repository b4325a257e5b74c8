"""Run the exporters of torch, and find out what they made of the model."""
