"""The passes: one a file; a file `some_name.py` with one subclass of `Pass` is the pass `some-name`."""
