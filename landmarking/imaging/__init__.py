"""A scan becomes a slice: NIfTI file in, registered and matched slice out.

numpy, scipy, nibabel; may import the base modules, never torch.
"""
