"""Strategies: an exporter and a pipeline, as data; what they cost; what is kept of them."""
