"""A prepared cohort becomes batches: split by person, augmented on the device.

May import the base modules, imaging, cohort, phantom and preparation.
"""
