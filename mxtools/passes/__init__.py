"""The passes, one in each file: `some_name.py`, with one subclass of `Pass`, is the pass `some-name`."""
