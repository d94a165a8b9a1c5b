"""Measurements that the documentation quotes; each module has `run(arguments) -> str`."""
