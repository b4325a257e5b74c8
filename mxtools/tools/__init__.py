"""Work with other tools: run their commands, run their optimisers, write the lists of node names that they read."""
