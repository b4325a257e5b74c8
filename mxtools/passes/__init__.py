"""The passes: one a file; a file `some_name.py` with one subclass of `mxtools.context.Pass` is the pass `some-name`."""
