"""Preference models: training, ensembles, calibration."""
