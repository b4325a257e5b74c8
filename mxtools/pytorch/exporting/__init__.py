"""Run the exporters of torch, and see what became of the model in their hands."""
