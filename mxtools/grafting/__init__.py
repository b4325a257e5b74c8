"""Putting back: changed parts of a model (`mx graft`) and the edits of a user's function (the pass `surgeon`)."""
