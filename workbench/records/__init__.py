"""Frozen results: what the workbench measured or decided, to and from JSON."""
