"""The version of mxtools, which is written into files."""

VERSION = "0.1.0"
