"""Settings of runs: shared dataclasses, bounds of their values, and flags made from them."""
