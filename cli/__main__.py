"""`python -m mxtools_cli`, if `mx` is not on the path."""

from .start import main

main()
