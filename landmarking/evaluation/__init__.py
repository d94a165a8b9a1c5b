"""Predictions become numbers and pictures: predictions.csv in, tables and report out.

May import the base modules and imaging.template; knows nothing of torch.
"""
