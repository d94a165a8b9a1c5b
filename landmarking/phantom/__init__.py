"""People who do not exist: seeds and settings in, a BIDS tree with exact landmarks out.

numpy and scipy; may import the base modules, imaging and cohort.
"""
