"""Trying, measuring and recommending strategies on PyTorch models."""
