"""The commands: one a file, with a function `command`."""
