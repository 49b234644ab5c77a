"""Grids of runs that compare algorithms, with intervals."""
