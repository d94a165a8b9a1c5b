"""Networks, losses and the Lightning module."""
