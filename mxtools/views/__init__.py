"""Showing a tagged model: one structure, and one file for each format that it is shown in."""
