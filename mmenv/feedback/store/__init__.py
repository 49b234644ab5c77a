"""The database of feedback."""
