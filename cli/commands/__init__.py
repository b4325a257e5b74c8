"""The commands: one in each file, which has a function `command`."""
