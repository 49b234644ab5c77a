"""Studies of docs/: which runs, and which page they make."""
