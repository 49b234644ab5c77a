"""The one dynamics, and its two faces."""
