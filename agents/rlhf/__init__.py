"""The loop of RLHF."""
