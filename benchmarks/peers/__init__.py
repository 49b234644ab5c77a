"""Scripts that train at one shape, ours and what else a user would reach for; each prints one JSON line."""
