"""Which nodes go into which part: by a budget, or by a map from modules to places."""
