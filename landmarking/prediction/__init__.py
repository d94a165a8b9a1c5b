"""A scan and a model to landmarks in world mm, and the files that other programs open."""
