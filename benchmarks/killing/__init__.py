"""What `benchmarks/kills.py` kills, how, and how it knows what is left."""
