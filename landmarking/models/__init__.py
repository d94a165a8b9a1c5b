"""Networks, losses and the Lightning module: slices in, landmarks in slice pixels out.

May import the base modules, evaluation (metrics), imaging and data.
"""
