"""Workloads, a nemesis that breaks things under them, and checkers of what clients were told."""
