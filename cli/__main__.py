"""`python -m mxtools_cli`, where `mx` is not on the path."""

from .start import main

main()
