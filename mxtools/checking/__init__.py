"""Measuring what tags are worth: what modules return, cut out or in place."""
