"""What an episode asks for: samples, gold, and follow-ups."""
