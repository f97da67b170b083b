"""What clients of a whole cluster see: failovers, new replicas, and what it costs."""
