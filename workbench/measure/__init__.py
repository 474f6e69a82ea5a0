"""Measurements: errors, speed (and later quality), as pure functions to records."""
