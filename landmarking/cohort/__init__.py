"""Where scans come from: a folder in (BIDS tree or cut slices), records of scans out.

May import the base modules and imaging.
"""
