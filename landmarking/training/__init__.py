"""A configuration becomes a finished run: config in, checkpoint and predictions.csv out.

May import everything below, and of prediction the packed models that a run may start from.
"""
