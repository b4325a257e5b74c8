"""From what exporters write on nodes to calls of a trace."""
