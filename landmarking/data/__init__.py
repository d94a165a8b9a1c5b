"""Slices to batches."""
