"""`python -m mxtools_cli`, where `mx` is not on the path."""

from .main import main

main()
