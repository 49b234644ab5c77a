"""Over-optimisation of learned rewards."""
