"""Metrics that compare a response with references."""
