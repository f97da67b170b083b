"""Benchmarks: each prints a table, JSON, and one `BAR` line per promise it checks."""
