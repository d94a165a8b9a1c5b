"""Predictions to numbers and pictures; knows nothing of torch."""
