"""Batches of responses: played, written, and in pairs."""
