"""Carriers: further places where tags are written on request, because tools keep these and drop node metadata.

Each is written and read back in one file. Which ones a model has stands in its metadata.
"""
