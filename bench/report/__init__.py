"""A result file as pictures: an HTML page, and docs/benchmarks.md."""
