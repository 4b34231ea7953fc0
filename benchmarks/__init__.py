"""Measurements of speed and quality. Each file is a command that prints one JSON line."""
