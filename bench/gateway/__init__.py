"""The benchmarks of the gateway, beside direct connections and pgbouncer."""
