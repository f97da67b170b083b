"""Benchmarks of storage nodes."""
