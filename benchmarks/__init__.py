"""Benchmarks: each prints a table and, with --json, writes what it measured."""
