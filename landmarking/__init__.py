"""Anatomical landmarks on the mid-sagittal plane of brain MRI: scan, slice, prediction, table."""

__version__ = "0.1.0"
