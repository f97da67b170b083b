"""The replicated log, measured: throughput and latency of commits, failover, memory, restart.

`python -P -m bench.log`. `nodes` and `writers` also serve the fault tests.
"""
