"""Rewards that read a response with a pretrained model."""
