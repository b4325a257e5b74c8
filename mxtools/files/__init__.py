"""Bytes: the wire format, weights that stay in their files, external data, outputs that appear whole or not at all."""

VERSION = "0.1.0"
"""The version of mxtools, which is written into files."""
