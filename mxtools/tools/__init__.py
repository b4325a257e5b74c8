"""Other tools: their commands, their optimisers, and the lists of node names that they take."""
