"""The algorithms, a file for each family."""
