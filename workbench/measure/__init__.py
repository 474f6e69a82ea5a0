"""Measurements: errors, speed and quality, as pure functions to records."""
