"""Networks over image, audio and text."""
