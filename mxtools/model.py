"""The public model."""
