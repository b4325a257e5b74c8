"""Show a tagged model: one structure of what there is to show, and one module for each format."""
