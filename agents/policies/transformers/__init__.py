"""Models of transformers as networks of a policy."""
