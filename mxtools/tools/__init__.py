"""Work with other tools: run their commands and optimisers, and write the lists of node names that they read."""
