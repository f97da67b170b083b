"""Fixtures that several folders of tests use; each concern has its module below fixtures/."""

import signal

# In this order: the later ones import the first.
pytest_plugins = [
    "fixtures.servers",
    "fixtures.redo",
    "fixtures.log_cluster",
    "fixtures.storage_cluster",
]

# A suite that is told to end (a CI's time limit) tears its fixtures down as after Ctrl-C, so that
# no server outlives it.
signal.signal(signal.SIGTERM, signal.default_int_handler)
