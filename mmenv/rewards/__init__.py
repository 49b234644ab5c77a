"""Who says how good a response was."""
