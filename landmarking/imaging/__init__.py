"""Scan to slice, with numpy, scipy and SimpleITK; never torch or Lightning."""
