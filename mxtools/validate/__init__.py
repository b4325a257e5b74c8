"""Check a model, its tags, and its trace against rules."""
