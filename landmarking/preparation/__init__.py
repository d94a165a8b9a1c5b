"""Scans become a prepared cohort: records in, slices and their landmarks as one folder out.

May import the base modules, imaging, cohort and phantom.
"""
