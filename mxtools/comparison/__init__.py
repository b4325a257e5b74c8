"""Comparing two tagged models by module."""
