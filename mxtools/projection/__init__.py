"""What the projecting passes share: the calls of the trace, values matched with it, calls without nodes."""
