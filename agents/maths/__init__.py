"""Formulas as pure functions: losses, advantages, KL."""
