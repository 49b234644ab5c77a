"""Embedded worlds: scenes, questions, speech."""
