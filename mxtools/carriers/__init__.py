"""Carriers: further places where tags are written on request, because tools keep these and drop node metadata.

One file writes and reads each carrier. The model's metadata list which ones it has.
"""
