"""Bytes: the wire format, weights left where they lie, external data, and outputs that appear whole or not at all."""
