"""What people, or synthetic people, say of responses."""
