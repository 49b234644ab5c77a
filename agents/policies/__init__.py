"""Networks as policies over tokens."""
