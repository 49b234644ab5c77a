"""A training run: its loop, folder, logs, evaluations and figures."""
