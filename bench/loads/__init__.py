"""Workloads, and the drivers that put them on a target."""
