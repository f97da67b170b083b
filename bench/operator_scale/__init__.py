"""What one operator costs that looks after many clusters: `python -P -m bench.operator_scale`."""
