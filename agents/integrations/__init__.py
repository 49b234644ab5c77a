"""Algorithms of other libraries in run folders of ours."""
