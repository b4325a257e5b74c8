"""What of a trace or of an earlier model is where in a graph."""
