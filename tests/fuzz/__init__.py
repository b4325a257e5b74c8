"""A fuzzer: files that are almost right, over every command, and an oracle that says what must never happen.

`make fuzz SECONDS=600` runs it; `corpus/` keeps what it found, and a test runs that. See `__main__.py`.
"""
