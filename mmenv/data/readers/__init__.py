"""Readers of datasets on disk, one file a layout."""
