"""Bytes: the wire format, weights left where they lie, external data, and outputs that appear whole or not at all."""

VERSION = "0.1.0"
"""The version of mxtools, which is written into files."""
