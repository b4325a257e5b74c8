"""Fleets: jobs over many models, the report that each leaves, and what all reports of a folder come to."""
