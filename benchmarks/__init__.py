"""How fast the environments step and how fast PPO trains, beside what else a user would reach for."""
