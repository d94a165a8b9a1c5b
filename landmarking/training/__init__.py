"""A configuration becomes a finished run: config in, checkpoint and predictions.csv out.

May import everything below, never prediction.
"""
