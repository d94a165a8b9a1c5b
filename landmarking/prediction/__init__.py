"""A scan and a model become landmarks in world mm, in files that other programs open.

May import everything below but training; torch is imported when it is needed.
"""
