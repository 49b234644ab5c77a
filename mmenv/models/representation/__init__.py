"""Representation learning: encoders, fusion, contrastive and reconstruction losses."""
