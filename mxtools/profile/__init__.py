"""Where the time goes, by module."""
