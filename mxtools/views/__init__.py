"""Show a tagged model: one structure with everything that views show, and one file for each format."""
