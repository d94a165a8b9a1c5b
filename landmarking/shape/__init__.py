"""Landmarks become shape: distances, angles and areas between them, by person and by group.

In come landmark files; out go tables and figures. Needs evaluation for its tests and charts.
"""
