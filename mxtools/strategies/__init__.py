"""Strategies (each an exporter and a pipeline, as data), metrics of what they cost, a cache of traces and exports."""
