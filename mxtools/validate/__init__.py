"""Rules for a model, its tags, and its trace."""
