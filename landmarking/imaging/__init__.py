"""Scan to slice, with numpy, scipy and scikit-image; never torch or Lightning."""
