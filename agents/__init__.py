"""Algorithms that read top to bottom, and the shared parts they stand on."""
