"""Dashboards and alerts of the chart, as data. The operator runs nothing of this."""
