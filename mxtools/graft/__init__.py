"""Putting a changed part back in its place."""
