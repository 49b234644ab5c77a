"""The labelling pages and their server."""
