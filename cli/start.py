"""Where the program starts: an interrupt ends it silently from here on, also while libraries are imported."""

from __future__ import annotations

from .terminal import end_at_once


def main() -> None:
    """Run `mx`."""
    end_at_once()
    from .main import main as run

    run()
